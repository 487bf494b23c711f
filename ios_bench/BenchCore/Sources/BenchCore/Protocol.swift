// Benchmark exports in alternation; the same as sharp_mobile/bench/host.py with host_bench/runner.cpp.
//
//     check and generate: runtime, room, hash, greedy tokens of each export
//     repetition 1:   export A: first, later, answer   export B: first, later, answer
//     repetition 2:   export A: first, later, answer   export B: first, later, answer
//     …               before each export's turn: wait until the device is cool, if the plan says so
//     threads sweep   each export: a launch for each number of threads
//     sustained       each export: one launch, for minutes
//
//     first    load without packed weights ─► a long prompt ─► first token; leaves packed weights
//     later    load with them ─► the prompt ─► warm-ups ─► forwards ─► prefill ─► decode ─► decode at depths
//     answer   load with them ─► a long prompt ─► first token; left out where there is no packed cache
//
// Alternating means that what else the device does falls on all exports alike; read medians. An export that fails keeps
// its measurements, and the others go on. All launches are in one process.

import Foundation

/// Why a run ends early: its user asks for it, or the app left the screen and would measure the system's brakes.
public enum Stop: Sendable { case user, background }

/// How a run sees its device: `device`, what it is and how warm; `room`, what is free; `condition`, its state at some
/// seconds since the start of the run; `caches`, where packed weights are kept; `journal`, where an export's results go.
public struct Place: Sendable {
  public var device: @Sendable () -> Device
  public var room: @Sendable () -> Room
  public var condition: @Sendable (Double) -> Condition
  public var caches: URL?
  public var journal: @Sendable (ExportFolder) -> Journal?
  public var clock: @Sendable () -> Double

  public init(
    device: @escaping @Sendable () -> Device, room: @escaping @Sendable () -> Room,
    condition: @escaping @Sendable (Double) -> Condition, caches: URL?,
    journal: @escaping @Sendable (ExportFolder) -> Journal?, clock: @escaping @Sendable () -> Double = uptime
  ) {
    (self.device, self.room, self.condition) = (device, room, condition)
    (self.caches, self.journal, self.clock) = (caches, journal, clock)
  }
}

public enum BenchProtocol {
  /// Measure exports; results in their order. `progress` gets a line for each turn. `stop` is asked between launches.
  public static func run(
    _ exports: [ExportFolder], _ plan: Plan, _ engine: any Engine, _ place: Place,
    progress: (String) -> Void, stop: @escaping () -> Stop?
  ) -> [Results] {
    let start = place.clock()
    let elapsed = { @Sendable in place.clock() - start }
    let sampler = Sampler(probe: place.condition, every: 2, elapsed: elapsed)
    sampler.start()
    let run = Run(
      engine: engine, place: place, sampler: sampler, idleMemory: engine.memory(), elapsed: elapsed, stop: stop)
    let benches = exports.map { Bench($0, plan.fitted($0), run) }
    for bench in benches { bench.waits() }
    for (index, bench) in benches.enumerated() {
      let same = benches[..<index].first { $0.export.identity.sha256 == bench.export.identity.sha256 }
      bench.attempt("the check") { try bench.check(same?.export) }
      bench.attempt("the first words") { try bench.generate() }
    }
    let turn = { (bench: Bench) in bench.error == nil && stop() == nil && cooled(plan, stop) }
    for repetition in 1...max(1, plan.repetitions) {
      for bench in benches where turn(bench) {
        progress("repetition \(repetition) of \(plan.repetitions): \(bench.export.name)")
        bench.attempt("the first launch") { try bench.first() }
        bench.attempt("a later launch") { try bench.later() }
        bench.attempt("the launch for the first token") { try bench.answer() }
      }
    }
    for bench in benches where !bench.threadCounts.isEmpty && turn(bench) {
      for threads in bench.threadCounts where bench.error == nil && stop() == nil {
        progress("\(threads) threads: \(bench.export.name)")
        bench.attempt("the threads sweep") { try bench.sweep(threads) }
      }
    }
    for bench in benches where plan.sustain > 0 && turn(bench) {
      bench.attempt("the sustained run") {
        try bench.sustain { progress("sustained: \(bench.export.name), \($0) of \(plan.sustain) s") }
      }
    }
    sampler.stop()
    return benches.map { $0.finish() }
  }

  /// Wait before an export's turn; false where a stop ends the wait.
  private static func cooled(_ plan: Plan, _ stop: () -> Stop?) -> Bool {
    let end = uptime() + Double(plan.coolDown)
    while uptime() < end {
      if stop() != nil { return false }
      Thread.sleep(forTimeInterval: min(0.1, max(0, end - uptime())))
    }
    return true
  }
}
