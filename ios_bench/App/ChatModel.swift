// What the page of the chat shows: a question to one export, and its answer as it grows.

import BenchCore
import Foundation
import SwiftUI

/// The most tokens of an answer.
private let limit = 256

@MainActor
final class ChatModel: ObservableObject {
  @Published var chosen = ""
  @Published var prompt = "The capital of France is"
  @Published private(set) var answer = Answer()
  @Published private(set) var error: String?
  @Published private(set) var answering = false

  private var loaded: (name: String, chat: Chat)?

  /// Ask the chosen export, or the first one; its model stays loaded for the next question.
  func ask(_ exports: [ExportFolder]) {
    guard !answering, let export = exports.first(where: { $0.name == chosen }) ?? exports.first else { return }
    (answering, answer, error) = (true, Answer(), nil)
    let known = loaded.flatMap { $0.name == export.name ? $0.chat : nil }
    loaded = nil  // another export's model goes before this one's comes
    let prompt = prompt
    let thread = Thread {
      let outcome = Result {
        let chat = try known ?? Chat(StockRunner(export))
        onMain { self.loaded = (export.name, chat) }
        return try chat.ask(prompt, limit) { answer in onMain { self.answer = answer } }
      }
      onMain { self.ended(outcome) }
    }
    thread.qualityOfService = .userInteractive
    thread.stackSize = 8 << 20
    thread.start()
  }

  func stop() { loaded?.chat.stop() }

  /// Give the model's memory back, before a benchmark measures.
  func unload() {
    stop()
    loaded = nil
  }

  private func ended(_ outcome: Result<Answer, any Error>) {
    answering = false
    if case .failure(let failure) = outcome {
      error = told(failure)
      loaded = nil
    }
  }
}
