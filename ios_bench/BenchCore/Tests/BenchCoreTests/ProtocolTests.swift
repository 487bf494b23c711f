import Foundation
import XCTest

@testable import BenchCore

final class ProtocolTests: XCTestCase {
  private let engine = FakeEngine()
  private var plan = Plan(repetitions: 2, warmups: 1, forwards: 2, prefill: 5, decode: 2, depths: [4])
  private var directory = FileManager.default.temporaryDirectory
  private var room = Room(freeBytes: 1 << 30)
  private var stops: (FakeEngine) -> Stop? = { _ in nil }
  private var lines: [String] = []

  override func setUpWithError() throws { directory = try temporaryDirectory() }

  private func file(_ name: String) -> URL { directory.appendingPathComponent("results-\(name).json") }

  private func written(_ name: String) throws -> Results {
    try Results.parse(String(contentsOf: file(name), encoding: .utf8))
  }

  private func place() -> Place {
    makePlace(engine, room: room, caches: directory.appendingPathComponent("packed")) {
      self.file($0.lastPathComponent)
    }
  }

  private func run(_ exports: URL...) throws -> [Results] {
    BenchProtocol.run(
      try exports.map(ExportFolder.open), plan, engine, place(),
      progress: { self.lines.append($0) }, stop: { self.stops(self.engine) })
  }

  func testTheOrderOfALaunch() throws {
    let found = try run(makeExport(in: directory))
    let generate = [
      "shared load without", "shared step 3 at 0", "shared step 1 at 3", "shared step 1 at 4", "shared close",
    ]
    let first = ["shared load unpacked", "shared step 5 at 0", "shared close"]
    let later =
      ["shared load packed", "shared step 3 at 0"]  // the prompt
      + [String](repeating: "shared step 1 at 3", count: 3)  // a warm-up and two forwards
      + ["shared step 5 at 0", "shared step 3 at 0", "shared step 1 at 3", "shared step 1 at 4"]
      + ["shared step 4 at 0", "shared step 1 at 4", "shared step 1 at 5", "shared close"]  // at a depth of four
    let answer = ["shared load packed", "shared step 5 at 0", "shared close"]
    XCTAssertEqual(engine.calls, generate + first + later + answer + first + later + answer)
    let results = found[0]
    XCTAssertEqual(results.status, "ok")
    XCTAssertEqual(results.tokens, [4, 5, 6])
    XCTAssertEqual(results.expectedTokens, [4, 5, 6])
    XCTAssertEqual(results.warnings, [])
    XCTAssertEqual(results.load, Load(first: Samples(seconds: [0.5, 0.5]), later: Samples(seconds: [0.5, 0.5])))
    let firstTokens = TokenSamples(seconds: [0.75, 0.75], tokens: 5)
    XCTAssertEqual(results.firstToken, FirstToken(first: firstTokens, later: firstTokens))
    XCTAssertEqual(results.forward?.seconds, [0.25, 0.25, 0.25, 0.25])
    XCTAssertEqual(results.prefill, TokenSamples(seconds: [0.25, 0.25], tokens: 5))
    XCTAssertEqual(results.decode, TokenSamples(seconds: [0.5, 0.5], tokens: 2))
    XCTAssertEqual(results.tokenLatency?.seconds, [0.25, 0.25, 0.25, 0.25])
    XCTAssertEqual(results.decodeAtDepth, [DepthSamples(depth: 4, seconds: [0.5, 0.5], tokens: 2)])
    XCTAssertEqual(results.threadsSweep, [])
    XCTAssertEqual(results.sustained, [])
    XCTAssertEqual(results.likeliest?.map(\.token), [4, 7, 6, 5, 3])
    XCTAssertEqual(results.settings.packedCache, true)
    XCTAssertNil(results.settings.fixedPerformance)
    XCTAssertEqual(results.device.performanceCores, 2)
    XCTAssertEqual(
      results.idleMemory, Memory(anonymous: 100, file: 1000, peak: 0, footprint: 50, footprintPeak: nil))
    XCTAssertEqual(try written("shared"), results)
  }

  func testPeaksAreTheSystemsMarksOfTheLaunchThatRaisesThem() throws {
    plan.repetitions = 1
    let export = try makeExport(in: directory)
    let seen = try XCTUnwrap(run(export)[0].memory)
    // No mark is raised. The most is seen after the last step: eleven steps after the first one, where memory is read.
    XCTAssertEqual(seen.peak - seen.anonymous - seen.file, 10)
    XCTAssertEqual(seen.footprintPeak! - seen.footprint!, 10)
    // Raised by another launch: not this one's.
    engine.marks = Memory(anonymous: 0, file: 0, peak: 7000, footprintPeak: 600)
    XCTAssertLessThan(try XCTUnwrap(run(export)[0].memory).peak, 7000)
    engine.hook = { [engine] in
      if $0 == "shared step 4 at 0" { (engine.marks.peak, engine.marks.footprintPeak) = (8000, 700) }
    }
    let raised = try XCTUnwrap(run(export)[0].memory)
    XCTAssertEqual([raised.peak, raised.footprintPeak], [8000, 700])
  }

  func testExportsAlternate() throws {
    _ = try run(makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another"))
    XCTAssertEqual(
      lines, ["repetition 1 of 2: a", "repetition 1 of 2: b", "repetition 2 of 2: a", "repetition 2 of 2: b"])
  }

  func testAnEngineThatKeepsNoPackedWeightsIsGivenNone() throws {
    engine.packedCache = false
    let results = try run(makeExport(in: directory))[0]
    XCTAssertFalse(engine.calls.contains { $0.contains("packed") })
    XCTAssertEqual(engine.calls.filter { $0.contains("load") }.count, 1 + 2 * 2)
    XCTAssertEqual(results.firstToken?.first?.seconds.count, 2)
    XCTAssertNil(results.firstToken?.later)
    XCTAssertEqual(results.settings.packedCache, false)
    XCTAssertEqual(results.load?.first?.seconds.count, 2)
    XCTAssertNil(results.load?.later)
    XCTAssertEqual(results.forward?.seconds.count, 4)
  }

  func testAFailureKeepsWhatWasMeasuredAndTheOthersGoOn() throws {
    engine.failsAt = "a step 1 at 5"  // at a depth, in the later launch
    plan.depths = [5]
    let found = try run(makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another"))
    XCTAssertEqual(found.map(\.status), ["failed", "ok"])
    XCTAssertEqual(found[0].error, "a step 1 at 5 fails")
    XCTAssertEqual(found[0].load?.first?.seconds.count, 1)
    XCTAssertEqual(found[0].tokens, [4, 5, 6])
    XCTAssertNil(found[0].forward)
    XCTAssertEqual(engine.calls.filter { $0 == "a close" }.count, 3)
    XCTAssertEqual(try written("a"), found[0])
  }

  func testWhatCannotSucceedFailsBeforeItIsLoaded() throws {
    let other = try makeExport(in: directory, name: "other", pte: "b program", executorch: "1.4.0")
    let changed = try makeExport(in: directory, name: "changed")
    try Data("c program".utf8).write(to: changed.appendingPathComponent("model.pte"))
    let found = try run(other, changed)
    XCTAssertEqual(engine.calls, [])
    XCTAssertTrue(found[0].error!.contains("was exported for executorch 1.4.0, this app has executorch 1.5.1"))
    XCTAssertTrue(found[1].error!.contains("is not the file of its manifest"))
    room.freeBytes = 3
    XCTAssertTrue(try run(makeExport(in: directory))[0].error!.contains("needs about 9 bytes of disk"))
    XCTAssertEqual(try written("shared").status, "failed")
  }

  func testTheSameExportTwice() throws {
    let found = try run(makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b"))
    XCTAssertEqual(found.map(\.error), [nil, "b: is the same export as a; name it once"])
  }

  func testAnAppThatTheSystemEndsLeavesItsWord() throws {
    // What is on disk at the moment of each call is what a killed app leaves.
    let exports = try [makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another")]
    let watching = WatchingEngine(engine) { try ["a", "b"].map { try self.written($0).error ?? "none" } }
    _ = BenchProtocol.run(
      try exports.map(ExportFolder.open), plan, watching, place(), progress: { _ in }, stop: { nil })
    let during = { (stage: String, name: String) in
      "the system ended the app during \(stage) of \(name), most likely for lack of memory; "
        + "free some or share more layers"
    }
    let before = { (name: String) in "the app was ended before \(name) was measured to its end; run it again" }
    XCTAssertEqual(watching.seen[0], [during("the first words", "a"), before("b")])
    XCTAssertEqual(watching.seen[2], [during("the first launch", "a"), before("b")])
    XCTAssertEqual(watching.seen[3], [during("a later launch", "a"), before("b")])
    XCTAssertEqual(watching.seen[4], [during("the launch for the first token", "a"), before("b")])
    XCTAssertEqual(watching.seen[5], [before("a"), during("the first launch", "b")])
    XCTAssertEqual(try written("a").status, "ok")
  }

  func testALongInputIsFedInParts() throws {
    let metadata: [String: Any] = ["get_max_context_len": 16, "get_max_seq_len": 2]
    _ = try run(makeExport(in: directory, with: ["metadata": metadata]))
    XCTAssertEqual(
      Array(engine.calls[..<3]), ["shared load without", "shared step 2 at 0", "shared step 1 at 2"])
    let prefill = engine.calls.firstIndex(of: "shared step 2 at 2")!
    XCTAssertEqual(
      Array(engine.calls[prefill - 1...prefill + 1]),
      ["shared step 2 at 0", "shared step 2 at 2", "shared step 1 at 4"])
  }

  func testWhatAnEngineCannotSetIsTold() throws {
    engine.limits = ["it cannot fly"]
    XCTAssertEqual(try run(makeExport(in: directory))[0].warnings, ["it cannot fly"])
  }

  func testTokensAreReportedAndNotJudged() throws {
    let results = try run(makeExport(in: directory, tokens: [4, 6, 6]))[0]
    XCTAssertEqual(results.tokens, [4, 5, 6])
    XCTAssertEqual(results.expectedTokens, [4, 6, 6])
    XCTAssertEqual(results.warnings, [])
  }

  func testAllExportsHaveTheConditionsOfTheWholeRun() throws {
    let found = try run(makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another"))
    let conditions = try XCTUnwrap(found[0].conditions)
    XCTAssertGreaterThanOrEqual(conditions.count, 2)
    XCTAssertEqual(conditions.first?.at, 0)
    XCTAssertEqual(conditions.last?.at, engine.seconds)
    XCTAssertEqual(found[1].conditions, conditions)
    XCTAssertEqual(try written("a").conditions, conditions)
  }

  func testATextEndsAtAStopToken() throws {
    let results = try run(makeExport(in: directory, tokens: [4, 5, 6, 7, 0, 1]))[0]
    XCTAssertEqual(results.tokens, [4, 5, 6, 7])
  }
}

/// Looks at what is on disk whenever a model is loaded.
private final class WatchingEngine: Engine, @unchecked Sendable {
  let engine: FakeEngine
  let look: () throws -> [String]
  var seen: [[String]] = []

  init(_ engine: FakeEngine, _ look: @escaping () throws -> [String]) { (self.engine, self.look) = (engine, look) }

  var harness: String { engine.harness }
  var runtime: String { engine.runtime }
  var weightCache: Bool { engine.weightCache }
  var packedCache: Bool { engine.packedCache }
  var cpuClass: String { engine.cpuClass }
  var limits: [String] { engine.limits }
  func memory() -> Memory { engine.memory() }

  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel {
    seen.append(try look())
    return try engine.load(pte, threads: threads, packedCache: packedCache)
  }
}
