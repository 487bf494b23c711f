// The benchmark app: two pages, or no hands at all where the environment names exports (HandsFree.swift).

import BenchCore
import Foundation
import SwiftUI

/// The one run of the process.
let runHolder = RunHolder()

@main
struct SharpBenchApp: App {
  @StateObject private var bench = BenchModel(runHolder)
  @StateObject private var chat = ChatModel()
  @Environment(\.scenePhase) private var phase

  var body: some Scene {
    WindowGroup {
      pages
        .onAppear { bench.watch() }
        .onDisappear { bench.unwatch() }
        .task { bench.start(ProcessInfo.processInfo.environment) }
    }
    .onChange(of: phase) { _, phase in
      // The system slows and suspends an app in the background.
      if phase == .background { runHolder.background() }
    }
  }

  private var pages: some View {
    TabView {
      BenchView(bench: bench, busy: chat.answering)
        .tabItem { Label("Bench", systemImage: "speedometer") }
      ChatView(chat: chat, exports: bench.found.exports, busy: bench.running)
        .tabItem { Label("Chat", systemImage: "text.bubble") }
    }
    .onChange(of: bench.running) { _, running in
      if running { chat.unload() }
    }
  }
}
