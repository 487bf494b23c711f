// Benchmark exports in alternation; the same as sharp_mobile/bench/host.py with host_bench/runner.cpp.
//
//     check and generate: runtime, room, hash, greedy tokens of each export
//     repetition 1:   export A: first, later   export B: first, later
//     repetition 2:   export A: first, later   export B: first, later
//     …
//
//     first   load and init without packed weights on disk; leaves them there
//     later   load and init with them ─► the prompt ─► warm-ups ─► forwards ─► prefill ─► decode
//
// Alternating means that what the device does beside falls on all exports alike; read medians. An export that fails
// keeps what was measured of it, and the others go on. All launches are in one process, so the most memory of a launch
// is the most that was seen after its parts: the system's own mark would be that of the exports before.

import Foundation

public struct Progress: Equatable, Sendable {
  public let repetition, repetitions: Int
  public let name: String

  public var line: String { "repetition \(repetition) of \(repetitions): \(name)" }
}

/// How a run sees its device: `device`, what it is and how warm; `room`, what is free; `caches`, where packed weights
/// are kept; `journal`, where an export's results go.
public struct Place {
  public var device: () -> Device
  public var room: () -> Room
  public var caches: URL?
  public var journal: (ExportFolder) -> Journal?

  public init(
    device: @escaping () -> Device, room: @escaping () -> Room, caches: URL?,
    journal: @escaping (ExportFolder) -> Journal?
  ) {
    (self.device, self.room, self.caches, self.journal) = (device, room, caches, journal)
  }
}

public enum BenchProtocol {
  /// Measure exports; results in their order.
  public static func run(
    _ exports: [ExportFolder], _ plan: Plan, _ engine: any Engine, _ place: Place,
    progress: (Progress) -> Void, cancelled: () -> Bool
  ) -> [Results] {
    let benches = exports.map { Bench($0, plan.fitted($0), engine, place) }
    for bench in benches { bench.waits() }
    for (index, bench) in benches.enumerated() where !cancelled() {
      let same = benches[..<index].first { $0.export.identity.sha256 == bench.export.identity.sha256 }
      bench.attempt("the check") { try bench.check(same?.export) }
      bench.attempt("the first words") { try bench.generate() }
    }
    for repetition in 1...max(1, plan.repetitions) {
      for bench in benches where bench.error == nil && !cancelled() {
        progress(Progress(repetition: repetition, repetitions: plan.repetitions, name: bench.export.name))
        bench.attempt("the first launch") { try bench.first() }
        bench.attempt("a later launch") { try bench.later() }
      }
    }
    return benches.map { $0.finish() }
  }

  /// What is to be said if an export does not generate the tokens of its manifest. `likeliest`: after the prompt, which
  /// tells how near a first token that differs is.
  public static func divergenceWarnings(_ tokens: [Int64], _ expected: [Int64], _ likeliest: [Likely]) -> [String] {
    if tokens == expected { return [] }
    let pairs = Array(zip(tokens, expected))
    let position = pairs.firstIndex { $0 != $1 } ?? pairs.count
    let ours = likeliest.first { $0.token == tokens.first }
    let theirs = likeliest.first { $0.token == expected.first }
    let why: String
    if position > 0 {
      why = "kernels of another CPU round differently"
    } else if let ours, let theirs {
      why =
        "kernels of another CPU round differently, and here the manifest's token is "
        + String(format: "%.2f behind in logits", ours.logit - theirs.logit)
    } else {
      why = "a first token that is not even among the likeliest means another model"
    }
    return ["greedy tokens part from the manifest's at position \(position) of \(expected.count); \(why)"]
  }
}

/// What one later launch took.
private struct Launch {
  var load: Double
  var forwards: [Double]
  var prefill, decode: Double
  var memory: Memory
  var likeliest: [Likely]
}

/// One export, its packed weights, and what was measured of it.
private final class Bench {
  let export: ExportFolder
  private(set) var error: String?
  private let plan: Plan
  private let engine: any Engine
  private let place: Place
  private let version: String
  private let cache: PackedCache?
  private let journal: Journal?
  private let device: Device
  private var firsts: [Double] = []
  private var laters: [Launch] = []
  private var tokens: [Int64] = []
  private var warnings: [String] = []

  init(_ export: ExportFolder, _ plan: Plan, _ engine: any Engine, _ place: Place) {
    (self.export, self.plan, self.engine, self.place) = (export, plan, engine, place)
    version = engine.runtime.replacingOccurrences(of: "executorch ", with: "")
    let key = PackedCache.key(pteSha256: export.identity.sha256, runtime: version, cpu: engine.cpuClass)
    cache = engine.packedCache ? place.caches.map { PackedCache(directory: $0, key: key) } : nil
    journal = place.journal(export)
    device = place.device()
  }

  /// Nothing is measured yet, and the results file says so.
  func waits() {
    do { try journal?.pause(results()) } catch { self.error = told(error) }
  }

  /// Do a part of the work, unless an earlier one failed; the results file tells what is being done.
  func attempt(_ stage: String, _ work: () throws -> Void) {
    if error != nil { return }
    do {
      feel()
      try journal?.begin(results(), stage)
      try work()
      feel()
      try journal?.pause(results())
    } catch {
      self.error = told(error)
      _ = finish()  // the others may go on for long
    }
  }

  /// Fail before the long work what cannot succeed.
  func check(_ same: ExportFolder?) throws {
    if let same { throw Failure("\(export.name): is the same export as \(same.name); name it once") }
    try export.checkRuntime(engine.runtime)
    try Requirements.check(place.room(), packedOnDisk: cache != nil, export)
    try export.checkHash()
  }

  /// Continue the manifest's prompt as the manifest does.
  func generate() throws {
    engine.limits.forEach(warn)
    let model = steps(try engine.load(export.pte, threads: plan.threads, packedCache: nil))
    defer { model.close() }
    let logits = try model.step(export.prompt, position: 0)
    tokens = try Greedy.continuation(
      model, logits, position: position, count: export.expectedTokens.count, stop: export.stop)
    let likeliest = Greedy.likeliest(logits, 5)
    BenchProtocol.divergenceWarnings(tokens, export.expectedTokens, likeliest).forEach(warn)
  }

  /// Load without packed weights on disk, and leave them there.
  func first() throws {
    guard let cache else {
      firsts.append(try load(nil))
      return
    }
    cache.delete()
    let brought = try export.packed.contains { try cache.bring($0, export, version, engine.cpuClass) }
    if brought { warn("the first launch had the packed weights that the export brings") }
    firsts.append(brought ? try cache.usedBy(load, pack: pack) : try cache.make(load))
  }

  /// A whole launch with the packed weights of an earlier one.
  func later() throws {
    laters.append(try cache.map { try $0.usedBy(launch, pack: pack) } ?? launch(nil))
  }

  /// The results, in the file too.
  func finish() -> Results {
    if error == nil && laters.count < plan.repetitions {
      error = "stopped after \(laters.count) of \(plan.repetitions) repetitions; run it again"
    }
    let found = error.map { results().failed($0) } ?? results()
    do {
      try journal?.finish(found)
      return found
    } catch {
      return found.failed(told(error))
    }
  }

  private func pack(_ path: URL) throws { _ = try load(path) }

  private func load(_ path: URL?) throws -> Double {
    let (seconds, model) = try timed { try engine.load(export.pte, threads: plan.threads, packedCache: path) }
    model.close()
    return seconds
  }

  private func launch(_ path: URL?) throws -> Launch {
    let (load, loaded) = try timed { try engine.load(export.pte, threads: plan.threads, packedCache: path) }
    defer { loaded.close() }
    let model = steps(loaded)
    var seen = [engine.memory()]
    let logits = try model.step(export.prompt, position: 0)
    let afterForward = engine.memory()
    seen.append(afterForward)
    let next = [Greedy.argmax(logits)]
    for _ in 0..<plan.warmups { _ = try model.step(next, position: position) }
    let forwards = try (0..<plan.forwards).map { _ in try timed { try model.step(next, position: position) }.seconds }
    seen.append(engine.memory())
    let passage = repeated(export.prompt, plan.prefill)
    let prefill = try timed { try model.step(passage, position: 0) }.seconds
    seen.append(engine.memory())
    let start = try model.step(export.prompt, position: 0)
    // One more than is fed, since the prompt's own step gave the first.
    let decode = try timed {
      try Greedy.continuation(model, start, position: position, count: plan.decode + 1, stop: [])
    }.seconds
    seen.append(engine.memory())
    var memory = afterForward
    memory.peak = seen.map { $0.anonymous + $0.file }.max()!
    return Launch(
      load: load, forwards: forwards, prefill: prefill, decode: decode, memory: memory,
      likeliest: Greedy.likeliest(logits, 5))
  }

  private func results() -> Results {
    var results = Results(
      created: now(),
      device: device,
      export: export.identity,
      settings: Settings(
        harness: engine.harness, runtime: engine.runtime, threads: plan.threads, weightCache: engine.weightCache,
        packedCache: cache != nil))
    results.load = Load(first: samples(firsts), later: cache == nil ? nil : samples(laters.map(\.load)))
    results.forward = samples(laters.flatMap(\.forwards))
    results.prefill = samples(laters.map(\.prefill)).map { TokenSamples(seconds: $0.seconds, tokens: plan.prefill) }
    results.decode = samples(laters.map(\.decode)).map { TokenSamples(seconds: $0.seconds, tokens: plan.decode) }
    results.memory = memory()
    results.likeliest = laters.first?.likeliest ?? []
    results.tokens = tokens
    results.warnings = warnings
    return results
  }

  private func memory() -> Memory? {
    if laters.isEmpty { return nil }
    func middle(_ part: (Memory) -> Int64) -> Int64 { Int64(Statistics.median(laters.map { Double(part($0.memory)) })) }
    return Memory(anonymous: middle(\.anonymous), file: middle(\.file), peak: middle(\.peak))
  }

  /// Notice a device that is too hot to be measured.
  private func feel() {
    let felt = place.device()
    if felt.throttled {
      warn("throttled: the device was \(felt.thermal!), so it was slowed down; let it cool, run it again")
    }
  }

  private func warn(_ warning: String) {
    if !warnings.contains(warning) { warnings.append(warning) }
  }

  /// The model, but an input that is longer than one forward takes is fed in parts.
  private func steps(_ loaded: any LoadedModel) -> any LoadedModel {
    SteppedModel(loaded: loaded, longestStep: export.longestStep)
  }

  private var position: Int64 { Int64(export.prompt.count) }
}

private struct SteppedModel: LoadedModel {
  let loaded: any LoadedModel
  let longestStep: Int

  func step(_ tokens: [Int64], position: Int64) throws -> [Float] {
    var logits: [Float] = []
    for start in stride(from: 0, to: tokens.count, by: longestStep) {
      let end = min(start + longestStep, tokens.count)
      logits = try loaded.step(Array(tokens[start..<end]), position: position + Int64(start))
    }
    return logits
  }

  func close() { loaded.close() }
}

private func samples(_ seconds: [Double]) -> Samples? { seconds.isEmpty ? nil : Samples(seconds: seconds) }

/// `count` tokens to feed: the prompt over and over.
private func repeated(_ prompt: [Int64], _ count: Int) -> [Int64] {
  (0..<count).map { prompt[$0 % prompt.count] }
}

/// Seconds by a clock that nobody sets, never zero.
private func timed<Done>(_ work: () throws -> Done) rethrows -> (seconds: Double, done: Done) {
  let start = DispatchTime.now().uptimeNanoseconds
  let done = try work()
  return (Double(max(1, DispatchTime.now().uptimeNanoseconds - start)) / 1e9, done)
}
