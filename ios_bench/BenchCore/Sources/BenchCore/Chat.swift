// One question to a model, and its answer as it grows.

import Foundation

/// What writes text after a prompt: the stock runner of ExecuTorch, or a test.
public protocol TextGenerator: Sendable {
  /// Write at most `limit` tokens; `piece` gets the text of each.
  func generate(_ prompt: String, _ limit: Int, _ piece: @escaping (String) -> Void) throws

  /// End what `generate` writes, from any thread.
  func stop()
}

/// `firstTokenSeconds`: from the question to the first token, nil before it. `tokensPerSecond`: of the tokens after the
/// first, nil before the second.
public struct Answer: Equatable, Sendable {
  public var text = ""
  public var tokens = 0
  public var firstTokenSeconds: Double?
  public var tokensPerSecond: Double?

  public init() {}
}

public final class Chat: @unchecked Sendable {
  private let generator: any TextGenerator
  private let clock: @Sendable () -> Double
  private let lock = NSLock()
  private var asked = false

  public init(_ generator: any TextGenerator, clock: @escaping @Sendable () -> Double = uptime) {
    (self.generator, self.clock) = (generator, clock)
  }

  /// Ask one question; `say` gets the answer so far after each token.
  public func ask(_ prompt: String, _ limit: Int, say: @escaping (Answer) -> Void) throws -> Answer {
    if prompt.allSatisfy(\.isWhitespace) { throw Failure("the prompt is empty; write one") }
    let busy = lock.withLock {
      defer { asked = true }
      return asked
    }
    if busy { throw Failure("an answer is being written; stop it first") }
    defer { lock.withLock { asked = false } }
    let start = clock()
    var answer = Answer()
    try generator.generate(prompt, limit) { [clock] piece in
      let seconds = clock() - start
      answer.text += piece
      answer.tokens += 1
      let first = answer.firstTokenSeconds ?? seconds
      answer.firstTokenSeconds = first
      if seconds > first { answer.tokensPerSecond = Double(answer.tokens - 1) / (seconds - first) }
      say(answer)
    }
    return answer
  }

  /// End the answer that is being written, if there is one.
  public func stop() {
    if lock.withLock({ asked }) { generator.stop() }
  }
}
