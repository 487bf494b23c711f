import Foundation
import XCTest

@testable import BenchCore

/// Says the words of a text, one a second by its clock, until it is stopped.
private final class FakeGenerator: TextGenerator, @unchecked Sendable {
  var seconds = 0.0
  var asked: [String] = []
  var stopped = false
  var hook: () -> Void = {}
  let words: [String]

  init(_ words: String...) { self.words = words }

  func generate(_ prompt: String, _ limit: Int, _ piece: @escaping (String) -> Void) throws {
    asked.append(prompt)
    stopped = false
    if prompt == "fail" { throw Failure("no") }
    seconds += 2
    for word in words.prefix(limit) where !stopped {
      piece(word)
      seconds += 0.5
      hook()
    }
  }

  func stop() { stopped = true }
}

final class ChatTests: XCTestCase {
  private let generator = FakeGenerator("The ", "moon ", "is ", "far.")

  private func chat() -> Chat { Chat(generator, clock: { [generator] in generator.seconds }) }

  func testAnAnswerGrows() throws {
    var answers: [Answer] = []
    let answer = try chat().ask("Where is the moon?", 3) { answers.append($0) }
    XCTAssertEqual(answers.map(\.text), ["The ", "The moon ", "The moon is "])
    XCTAssertEqual(answers.map(\.tokens), [1, 2, 3])
    XCTAssertEqual(answers.map(\.firstTokenSeconds), [2, 2, 2])
    XCTAssertEqual(answers.map(\.tokensPerSecond), [nil, 2, 2])
    XCTAssertEqual(answer, answers.last)
    XCTAssertEqual(generator.asked, ["Where is the moon?"])
  }

  func testAnAnswerIsStopped() throws {
    let chat = chat()
    chat.stop()
    XCTAssertFalse(generator.stopped)
    generator.hook = { chat.stop() }
    XCTAssertEqual(try chat.ask("x", 4) { _ in }.text, "The ")
  }

  func testOneQuestionAtATime() throws {
    let chat = chat()
    var refused = ""
    generator.hook = { do { _ = try chat.ask("y", 1) { _ in } } catch { refused = told(error) } }
    XCTAssertEqual(try chat.ask("x", 4) { _ in }.tokens, 4)
    XCTAssertEqual(refused, "an answer is being written; stop it first")
    XCTAssertEqual(generator.asked, ["x"])
  }

  func testWhatCannotBeAnswered() throws {
    let chat = chat()
    for prompt in ["", " \n"] {
      XCTAssertThrowsError(try chat.ask(prompt, 4) { _ in }) {
        XCTAssertEqual(told($0), "the prompt is empty; write one")
      }
    }
    XCTAssertThrowsError(try chat.ask("fail", 4) { _ in }) { XCTAssertEqual(told($0), "no") }
    XCTAssertEqual(try chat.ask("x", 4) { _ in }.tokens, 4)
  }
}
