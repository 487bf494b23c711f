// What the screen shows, and the run behind it. A run has a thread of its own; the screen is told of every line.

import BenchCore
import SwiftUI
import UIKit

@MainActor
final class BenchModel: ObservableObject {
  @Published private(set) var found = FoundExports()
  @Published var chosen: Set<String> = []
  @Published var repetitions = Plan().repetitions
  @Published var threads = 1
  @Published private(set) var running = false
  @Published private(set) var line = ""
  @Published private(set) var error: String?
  @Published private(set) var results: [Results] = []
  @Published private(set) var files: [URL] = []

  private let stopping = Flag()
  private var started = false

  /// At the start of the app: look for exports, and run at once if the environment says so.
  func start(_ environment: [String: String]) {
    if started { return }
    started = true
    do { try Places.make() } catch { self.error = told(error) }
    refresh()
    guard let request = HandsFree(environment, documents: Places.documents, models: Places.models) else { return }
    let status = Status(request.out.appendingPathComponent("status.json"))
    if let refusal = request.refusal {
      error = refusal
      try? status.failed(refusal)
    } else {
      run(request.exports, request.plan, out: request.out, status: status)
    }
  }

  func refresh() {
    found = Places.find()
    chosen = chosen.isEmpty ? Set(found.exports.map(\.name)) : chosen.intersection(found.exports.map(\.name))
  }

  /// Run what is chosen on the screen.
  func runChosen() {
    let exports = found.exports.filter { chosen.contains($0.name) }.map(\.directory)
    let status = Status(Places.results.appendingPathComponent("status.json"))
    run(exports, Plan(threads: threads, repetitions: repetitions), out: Places.results, status: status)
  }

  /// After the launch that runs.
  func stop() { stopping.raised = true }

  private func run(_ exports: [URL], _ plan: Plan, out: URL, status: Status) {
    if running { return }
    (running, error, results, files, line) = (true, nil, [], [], "opening")
    stopping.raised = false
    UIApplication.shared.isIdleTimerDisabled = true
    let battery = DeviceProbe.battery()
    let stopping = stopping
    // Of the highest class, which the system runs on its fast cores.
    let thread = Thread {
      let session = Session(
        plan: plan, engine: ExecuTorchEngine(), device: { DeviceProbe.device(battery: battery) },
        room: DeviceProbe.room, caches: Places.caches, status: status,
        resultsFile: { Places.resultsFile($0, in: out) },
        say: { line in DispatchQueue.main.async { self.line = line } }, cancelled: { stopping.raised })
      let outcome = Result { try session.run(exports) }
      DispatchQueue.main.async { self.ended(outcome, exports.map { Places.resultsFile($0, in: out) }) }
    }
    thread.qualityOfService = .userInteractive
    thread.stackSize = 8 << 20
    thread.start()
  }

  private func ended(_ outcome: Result<[Results], any Error>, _ written: [URL]) {
    UIApplication.shared.isIdleTimerDisabled = false
    running = false
    switch outcome {
    case .success(let found): (results, files, line) = (found, written, "")
    case .failure(let failure): (error, line) = (told(failure), "")
    }
  }
}

/// A flag that two threads see.
final class Flag: @unchecked Sendable {
  private let lock = NSLock()
  private var value = false

  var raised: Bool {
    get { lock.withLock { value } }
    set { lock.withLock { value = newValue } }
  }
}
