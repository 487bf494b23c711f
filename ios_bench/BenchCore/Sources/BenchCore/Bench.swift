// One export, its packed weights, and what was measured of it.

import Foundation

/// What the exports of a run share. `idleMemory`: of the process before the first load. `elapsed`: seconds since the
/// start of the run.
struct Run {
  let engine: any Engine
  let place: Place
  let sampler: Sampler
  let idleMemory: Memory
  let elapsed: @Sendable () -> Double
  let stop: () -> Stop?
}

final class Bench {
  let export: ExportFolder
  let threadCounts: [Int]
  private(set) var error: String?
  private let plan: Plan
  private let run: Run
  private let launch: Launch
  private let version: String
  private let cache: PackedCache?
  private let journal: Journal?
  private let device: Device
  private var found = Found()

  /// All that launches have found; a launch that does not count is undone by an earlier one of these.
  private struct Found {
    var firsts: [(load: Double, token: Double)] = []
    var laters: [Measured] = []
    var answers: [Double] = []
    var sweep: [ThreadSamples] = []
    var sustained: [Window] = []
    var sustainedToTheEnd = false
    var tokens: [Int64] = []
    var warnings: [String] = []
  }

  init(_ export: ExportFolder, _ plan: Plan, _ run: Run) {
    (self.export, self.plan, self.run) = (export, plan, run)
    let engine = run.engine
    launch = Launch(export: export, plan: plan, engine: engine, clock: run.place.clock)
    version = engine.runtime.replacingOccurrences(of: "executorch ", with: "")
    let key = PackedCache.key(pteSha256: export.identity.sha256, runtime: version, cpu: engine.cpuClass)
    cache = engine.packedCache ? run.place.caches.map { PackedCache(directory: $0, key: key) } : nil
    journal = run.place.journal(export)
    device = run.place.device()
    threadCounts = plan.threadCounts(device)
  }

  /// Nothing is measured yet, and the results file says so.
  func waits() {
    do { try journal?.pause(results()) } catch { self.error = told(error) }
  }

  /// Do a part of the work, unless an earlier one failed or the run is stopped; the results file says what is under way.
  func attempt(_ stage: String, _ work: () throws -> Void) {
    if error != nil || run.stop() != nil { return }
    let before = found
    do {
      try journal?.begin(results(), stage)
      try work()
    } catch {
      self.error = told(error)
    }
    if run.stop() == .background {
      found = before
      error = Failure(background: stage, of: export.name).message
    }
    if error == nil { waits() }
    if error != nil { _ = finish() }  // the others may go on for long
  }

  /// Fail before the long work what cannot succeed.
  func check(_ same: ExportFolder?) throws {
    if let same { throw Failure("\(export.name): is the same export as \(same.name); name it once") }
    try export.checkRuntime(run.engine.runtime)
    try Requirements.check(run.place.room(), packedOnDisk: cache != nil, export)
    try export.checkHash()
  }

  /// Continue the manifest's prompt.
  func generate() throws {
    run.engine.limits.forEach(warn)
    let loaded = try run.engine.load(export.pte, threads: plan.threads, packedCache: nil)
    let model = SteppedModel(loaded: loaded, longestStep: export.longestStep)
    defer { model.close() }
    let logits = try model.step(export.prompt, position: 0)
    found.tokens = try Greedy.continuation(
      model, logits, position: Int64(export.prompt.count), count: export.expectedTokens.count, stop: export.stop)
  }

  /// Launch without packed weights on disk, and leave them there.
  func first() throws {
    guard let cache else {
      found.firsts.append(try launch.firstToken(nil))
      return
    }
    cache.delete()
    let brought = try export.packed.contains { try cache.bring($0, export, version, run.engine.cpuClass) }
    if brought { warn("the first launch had the packed weights that the export brings") }
    found.firsts.append(
      brought ? try cache.usedBy(launch.firstToken, pack: pack) : try cache.make(launch.firstToken))
  }

  /// A whole launch with the packed weights of an earlier one.
  func later() throws {
    found.laters.append(try packed(launch.measure))
  }

  /// Time to first token with packed weights; without them `first` has it.
  func answer() throws {
    if cache != nil { found.answers.append(try packed(launch.firstToken).token) }
  }

  /// A launch with a number of threads.
  func sweep(_ threads: Int) throws {
    found.sweep.append(try packed { try launch.sweep($0, threads: threads) })
  }

  /// Decode for long.
  func sustain(_ say: (Int) -> Void) throws {
    let (windows, complete) = try packed { path in
      try launch.sustain(path, elapsed: run.elapsed, stop: run.stop, say: say)
    }
    (found.sustained, found.sustainedToTheEnd) = (windows, complete)
  }

  /// The results, in the file too.
  func finish() -> Results {
    if error == nil { error = missing() }
    let found = error.map { results().failed($0) } ?? results()
    do {
      try journal?.finish(found)
      return found
    } catch {
      return found.failed(told(error))
    }
  }

  /// What of the plan was not measured; nil if all was.
  private func missing() -> String? {
    let repetitions = cache == nil ? found.laters.count : found.answers.count
    if repetitions < plan.repetitions {
      return "stopped after \(repetitions) of \(plan.repetitions) repetitions; run it again"
    }
    if found.sweep.count < threadCounts.count { return "stopped during the threads sweep; run it again" }
    if plan.sustain > 0 && !found.sustainedToTheEnd { return "stopped during the sustained run; run it again" }
    return nil
  }

  private func packed<Launched>(_ launch: (URL?) throws -> Launched) throws -> Launched {
    try cache.map { try $0.usedBy(launch, pack: pack) } ?? launch(nil)
  }

  private func pack(_ path: URL) throws {
    try run.engine.load(export.pte, threads: plan.threads, packedCache: path).close()
  }

  private func results() -> Results {
    let engine = run.engine
    var results = Results(
      created: now(),
      device: device,
      export: export.identity,
      settings: Settings(
        harness: engine.harness, runtime: engine.runtime, threads: plan.threads, weightCache: engine.weightCache,
        packedCache: cache != nil))
    let laters = found.laters
    let later = cache == nil ? nil : samples(laters.map(\.load))
    results.load = Load(first: samples(found.firsts.map(\.load)), later: later)
    results.firstToken = FirstToken(
      first: tokens(found.firsts.map(\.token), plan.prefill), later: tokens(found.answers, plan.prefill))
    results.forward = samples(laters.flatMap(\.forwards))
    results.prefill = tokens(laters.map(\.prefill), plan.prefill)
    results.decode = tokens(laters.map { $0.tokens.reduce(0, +) }, plan.decode)
    results.tokenLatency = samples(laters.flatMap(\.tokens))
    if !laters.isEmpty {
      results.decodeAtDepth = plan.depths.enumerated().map { index, depth in
        DepthSamples(depth: depth, seconds: laters.map { $0.depths[index] }, tokens: plan.decode)
      }
    }
    results.threadsSweep = found.sweep
    results.sustained = found.sustained
    results.memory = memory()
    results.idleMemory = run.idleMemory
    results.conditions = run.sampler.taken()
    results.likeliest = laters.first?.likeliest ?? []
    results.tokens = found.tokens
    results.expectedTokens = export.expectedTokens
    results.warnings = found.warnings
    return results
  }

  /// The median of each part.
  private func memory() -> Memory? {
    if found.laters.isEmpty { return nil }
    return Memory(
      anonymous: middle(\.anonymous)!, file: middle(\.file)!, peak: middle(\.peak)!, footprint: middle(\.footprint),
      footprintPeak: middle(\.footprintPeak))
  }

  private func middle(_ part: (Memory) -> Int64?) -> Int64? {
    let parts = found.laters.compactMap { part($0.memory) }
    return parts.isEmpty ? nil : Int64(Statistics.median(parts.map(Double.init)))
  }

  private func warn(_ warning: String) {
    if !found.warnings.contains(warning) { found.warnings.append(warning) }
  }
}

private func samples(_ seconds: [Double]) -> Samples? { seconds.isEmpty ? nil : Samples(seconds: seconds) }

private func tokens(_ seconds: [Double], _ tokens: Int) -> TokenSamples? {
  seconds.isEmpty ? nil : TokenSamples(seconds: seconds, tokens: tokens)
}
