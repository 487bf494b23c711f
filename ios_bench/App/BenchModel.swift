// What the page of the benchmark shows. The run is the holder's: it goes on while screens come and go.

import BenchCore
import Foundation
import SwiftUI
import UIKit

@MainActor
final class BenchModel: ObservableObject {
  @Published private(set) var found = FoundExports()
  @Published var chosen: Set<String> = []
  @Published var plan = Plan()
  @Published private(set) var state = RunState.idle
  @Published private(set) var error: String?

  /// Where the results of the last run are.
  private(set) var files: [URL] = []

  private let holder: RunHolder
  private var watching: Int?
  private var started = false

  init(_ holder: RunHolder) { self.holder = holder }

  var running: Bool { if case .running = state { true } else { false } }

  var line: String { if case .running(let line) = state { line } else { "" } }

  var results: [Results] { if case .ended(let results, _) = state { results } else { [] } }

  /// What is wrong with the exports, the request, or the run.
  var complaint: String? { if case .ended(_, let error?) = state { error } else { error } }

  /// At the start of the app: look for exports, and run at once if the environment says so.
  func start(_ environment: [String: String]) {
    if started { return }
    started = true
    Battery.shared.follow()
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

  /// A screen has come: show the run as it is, and as it goes on.
  func watch() {
    if watching == nil { watching = holder.watch { state in onMain { self.show(state) } } }
  }

  /// The screen has gone.
  func unwatch() {
    watching.map(holder.unwatch)
    watching = nil
  }

  func refresh() {
    found = Places.find()
    chosen = chosen.isEmpty ? Set(found.exports.map(\.name)) : chosen.intersection(found.exports.map(\.name))
  }

  /// Run what is chosen on the screen.
  func runChosen() {
    let exports = found.exports.filter { chosen.contains($0.name) }.map(\.directory)
    run(exports, plan, out: Places.results, status: Status(Places.results.appendingPathComponent("status.json")))
  }

  /// After the launch that is under way.
  func stop() { holder.stop() }

  private func run(_ exports: [URL], _ plan: Plan, out: URL, status: Status) {
    let started = holder.start(exports) { say, stop in
      Session(
        plan: plan, engine: ExecuTorchEngine(), device: { DeviceProbe.device() }, room: { DeviceProbe.room() },
        condition: { DeviceProbe.condition($0) }, caches: Places.caches, status: status,
        resultsFile: { Places.resultsFile($0, in: out) }, say: say, stop: stop)
    }
    if started { (error, files) = (nil, exports.map { Places.resultsFile($0, in: out) }) }
  }

  private func show(_ state: RunState) {
    self.state = state
    UIApplication.shared.isIdleTimerDisabled = running
  }
}

extension Set {
  /// Whether it has an element, for a switch on the screen.
  subscript(has element: Element) -> Bool {
    get { contains(element) }
    set { if newValue { insert(element) } else { remove(element) } }
  }
}
