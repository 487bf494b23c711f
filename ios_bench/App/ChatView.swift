// The page of the chat: choose an export, ask, read, stop.

import BenchCore
import Foundation
import SwiftUI

/// `exports`: what can be asked. `busy`: a benchmark runs, and an answer would spoil it.
struct ChatView: View {
  @ObservedObject var chat: ChatModel
  let exports: [ExportFolder]
  let busy: Bool

  var body: some View {
    NavigationStack {
      List {
        question
        if chat.answering || chat.answer.tokens > 0 { answer }
        if let error = chat.error { Section { Text(error).foregroundStyle(.red) } }
      }
      .navigationTitle("Chat")
      .toolbar {
        if chat.answering {
          Button("Stop") { chat.stop() }
        } else {
          Button("Ask") { chat.ask(exports) }.disabled(exports.isEmpty || busy)
        }
      }
    }
  }

  private var question: some View {
    Section("Question") {
      if busy { Text("The benchmark runs. Wait for its end, or stop it.") }
      Picker("Export", selection: $chat.chosen) {
        Text("the first").tag("")
        ForEach(exports, id: \.name) { Text($0.name).tag($0.name) }
      }
      TextField("Prompt", text: $chat.prompt, axis: .vertical)
    }
    .disabled(chat.answering || busy)
  }

  private var answer: some View {
    Section("Answer") {
      if chat.answer.tokens == 0 { ProgressView() }
      Text(chat.answer.text).textSelection(.enabled)
      Text(speed).font(.caption.monospacedDigit())
    }
  }

  private var speed: String {
    let answer = chat.answer
    var parts = ["\(answer.tokens) tokens"]
    if let seconds = answer.firstTokenSeconds { parts.append(String(format: "first token after %.2f s", seconds)) }
    if let speed = answer.tokensPerSecond { parts.append(String(format: "%.1f tokens/s", speed)) }
    return parts.joined(separator: ", ")
  }
}
