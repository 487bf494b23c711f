// The benchmark app: a screen, or no hands at all where the environment names exports (HandsFree.swift).

import SwiftUI

@main
struct SharpBenchApp: App {
  @StateObject private var bench = BenchModel()
  @Environment(\.scenePhase) private var phase

  var body: some Scene {
    WindowGroup {
      BenchView(bench: bench)
        .task { bench.start(ProcessInfo.processInfo.environment) }
    }
    .onChange(of: phase) { _, phase in
      // An app in the background is suspended, and its times would be of the wait.
      if phase == .background { bench.stop() }
    }
  }
}
