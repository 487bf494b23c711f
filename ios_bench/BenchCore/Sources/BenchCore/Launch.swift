// What one launch does, from load to unload, and the seconds of its parts.

import Foundation

/// Seconds by a clock that nobody sets.
public let uptime: @Sendable () -> Double = { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

/// What a later launch measured.
struct Measured {
  var load: Double
  var forwards: [Double]
  var prefill: Double
  var tokens: [Double]
  var depths: [Double]
  var memory: Memory
  var likeliest: [Likely]
}

struct Launch {
  let export: ExportFolder
  let plan: Plan
  let engine: any Engine
  let clock: @Sendable () -> Double

  /// Load, and predict one token after a prompt of `prefill` tokens; seconds from the start to either.
  func firstToken(_ packed: URL?) throws -> (load: Double, token: Double) {
    let start = clock()
    let model = try loaded(packed, plan.threads)
    defer { model.close() }
    let load = since(start)
    _ = Greedy.argmax(try model.step(passage(plan.prefill), position: 0))
    return (load, since(start))
  }

  /// All that is measured with packed weights on disk.
  func measure(_ packed: URL?) throws -> Measured {
    let before = engine.memory()
    let (load, model) = try timed { try loaded(packed, plan.threads) }
    defer { model.close() }
    var seen = [engine.memory()]
    let logits = try model.step(export.prompt, position: 0)
    let memory = engine.memory()
    seen.append(memory)
    let next = [Greedy.argmax(logits)]
    for _ in 0..<plan.warmups { _ = try model.step(next, position: position) }
    let forwards = try (0..<plan.forwards).map { _ in try timed { try model.step(next, position: position) }.seconds }
    seen.append(engine.memory())
    let prefill = try prefill(model)
    seen.append(engine.memory())
    let tokens = try decode(model)
    seen.append(engine.memory())
    let depths = try plan.depths.map { depth in
      let filled = try model.step(passage(depth), position: 0)
      let seconds = try continued(model, filled, Int64(depth)).reduce(0, +)
      seen.append(engine.memory())
      return seconds
    }
    return Measured(
      load: load, forwards: forwards, prefill: prefill, tokens: tokens, depths: depths,
      memory: peaks(memory, before, seen), likeliest: Greedy.likeliest(logits, 5))
  }

  /// Prefill and decode with a number of threads, `repetitions` times.
  func sweep(_ packed: URL?, threads: Int) throws -> ThreadSamples {
    let model = try loaded(packed, threads)
    defer { model.close() }
    _ = try model.step(export.prompt, position: 0)
    var prefills: [Double] = []
    var decodes: [Double] = []
    for _ in 0..<plan.repetitions {
      prefills.append(try prefill(model))
      decodes.append(try decode(model).reduce(0, +))
    }
    return ThreadSamples(
      threads: threads, prefill: TokenSamples(seconds: prefills, tokens: plan.prefill),
      decode: TokenSamples(seconds: decodes, tokens: plan.decode))
  }

  /// Decode for `sustain` seconds or until `stop`; windows of at least a second, and whether it came to its end.
  /// `elapsed`: seconds since the start of the run. `say` gets the seconds of decoding so far, every ten.
  func sustain(_ packed: URL?, elapsed: () -> Double, stop: () -> Stop?, say: (Int) -> Void) throws
    -> (windows: [Window], complete: Bool)
  {
    let model = try loaded(packed, plan.threads)
    defer { model.close() }
    let start = elapsed()
    var windows: [Window] = []
    var window = Window(at: 0, tokens: 0, seconds: 0)
    var line = 0.0
    while elapsed() - start < Double(plan.sustain) {
      if stop() != nil { return (windows, false) }
      if elapsed() - start >= line {
        say(Int(elapsed() - start))
        line += 10
      }
      window.seconds += try decode(model).reduce(0, +)
      window.tokens += plan.decode
      if window.seconds >= 1 {
        window.at = elapsed()
        windows.append(window)
        window = Window(at: 0, tokens: 0, seconds: 0)
      }
    }
    return (windows, true)
  }

  private func loaded(_ packed: URL?, _ threads: Int) throws -> any LoadedModel {
    SteppedModel(
      loaded: try engine.load(export.pte, threads: threads, packedCache: packed), longestStep: export.longestStep)
  }

  private func prefill(_ model: any LoadedModel) throws -> Double {
    let tokens = passage(plan.prefill)
    return try timed { try model.step(tokens, position: 0) }.seconds
  }

  /// Seconds of each token after the prompt, which is not timed.
  private func decode(_ model: any LoadedModel) throws -> [Double] {
    try continued(model, try model.step(export.prompt, position: 0), position)
  }

  private func continued(_ model: any LoadedModel, _ logits: [Float], _ position: Int64) throws -> [Double] {
    try Greedy.timedContinuation(model, logits, position: position, count: plan.decode, clock: clock)
  }

  /// `count` tokens to feed: the prompt over and over.
  private func passage(_ count: Int) -> [Int64] {
    (0..<count).map { export.prompt[$0 % export.prompt.count] }
  }

  /// The memory with its peaks: the system's mark where this launch raised it, else the most of what was seen. All
  /// launches are in one process, so a mark that stands may be of an earlier launch.
  private func peaks(_ memory: Memory, _ before: Memory, _ seen: [Memory]) -> Memory {
    var memory = memory
    let after = seen.last!
    memory.peak = after.peak > before.peak ? after.peak : seen.map { $0.anonymous + $0.file }.max()!
    if let mark = after.footprintPeak, mark > before.footprintPeak ?? mark {
      memory.footprintPeak = mark
    } else {
      memory.footprintPeak = seen.compactMap(\.footprint).max()
    }
    return memory
  }

  private func timed<Done>(_ work: () throws -> Done) rethrows -> (seconds: Double, done: Done) {
    let start = clock()
    let done = try work()
    return (since(start), done)
  }

  /// Never zero, however coarse the clock is.
  private func since(_ start: Double) -> Double { max(1e-9, clock() - start) }

  private var position: Int64 { Int64(export.prompt.count) }
}

/// A model that feeds an input in parts where it is longer than one forward takes.
struct SteppedModel: LoadedModel {
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
