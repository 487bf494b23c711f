import Foundation
import XCTest

@testable import BenchCore

final class ProtocolTests: XCTestCase {
  private let engine = FakeEngine()
  private let plan = Plan(repetitions: 2, warmups: 1, forwards: 2, prefill: 5, decode: 2)
  private var directory = FileManager.default.temporaryDirectory
  private var device = Device(kind: "ios", model: "iPhone0,0", os: "iOS 17", cpu: "A0", cores: 2, thermal: "nominal")
  private var room = Room(freeBytes: 1 << 30)
  private var stopsAfter = Int.max
  private var lines: [String] = []

  override func setUpWithError() throws { directory = try temporaryDirectory() }

  private func file(_ name: String) -> URL { directory.appendingPathComponent("results-\(name).json") }

  private func written(_ name: String) throws -> Results {
    try Results.parse(String(contentsOf: file(name), encoding: .utf8))
  }

  private func run(_ exports: URL...) throws -> [Results] {
    let place = Place(
      device: { self.device }, room: { self.room }, caches: directory.appendingPathComponent("packed"),
      journal: { Journal(self.file($0.name)) })
    return BenchProtocol.run(
      try exports.map(ExportFolder.open), plan, engine, place,
      progress: { self.lines.append($0.line) }, cancelled: { self.lines.count >= self.stopsAfter })
  }

  func testTheOrderOfALaunch() throws {
    let found = try run(makeExport(in: directory))
    let generate = [
      "shared load without", "shared step 3 at 0", "shared step 1 at 3", "shared step 1 at 4", "shared close",
    ]
    let first = ["shared load unpacked", "shared close"]
    let later =
      ["shared load packed", "shared step 3 at 0"]  // the prompt
      + [String](repeating: "shared step 1 at 3", count: 3)  // a warm-up and two forwards
      + ["shared step 5 at 0", "shared step 3 at 0", "shared step 1 at 3", "shared step 1 at 4", "shared close"]
    XCTAssertEqual(engine.calls, generate + first + later + first + later)
    let results = found[0]
    XCTAssertEqual(results.status, "ok")
    XCTAssertEqual(results.tokens, [4, 5, 6])
    XCTAssertEqual(results.warnings, [])
    XCTAssertEqual(results.load?.first?.seconds.count, 2)
    XCTAssertEqual(results.load?.later?.seconds.count, 2)
    XCTAssertEqual(results.forward?.seconds.count, 4)
    XCTAssertEqual(results.prefill?.tokens, 5)
    XCTAssertEqual(results.decode?.tokens, 2)
    XCTAssertEqual(results.decode?.seconds.count, 2)
    XCTAssertEqual(results.likeliest?.map(\.token), [4, 7, 6, 5, 3])
    XCTAssertEqual(results.settings.packedCache, true)
    XCTAssertEqual(results.memory?.file, 1000)
    // The most of a launch is seen after its last step: eight steps after the first look at the memory.
    XCTAssertEqual(results.memory.map { $0.peak - 1000 - $0.anonymous }, 7)
    XCTAssertEqual(try written("shared"), results)
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
    XCTAssertEqual(results.settings.packedCache, false)
    XCTAssertEqual(results.load?.first?.seconds.count, 2)
    XCTAssertNil(results.load?.later)
    XCTAssertEqual(results.forward?.seconds.count, 4)
  }

  func testAFailureKeepsWhatWasMeasuredAndTheOthersGoOn() throws {
    engine.failsAt = "a step 5 at 0"
    let found = try run(makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another"))
    XCTAssertEqual(found.map(\.status), ["failed", "ok"])
    XCTAssertEqual(found[0].error, "a step 5 at 0 fails")
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
    let place = Place(
      device: { self.device }, room: { self.room }, caches: directory.appendingPathComponent("packed"),
      journal: { Journal(self.file($0.name)) })
    _ = BenchProtocol.run(
      try exports.map(ExportFolder.open), plan, watching, place, progress: { _ in }, cancelled: { false })
    let during = { (stage: String, name: String) in
      "the system ended the app during \(stage) of \(name), most likely for lack of memory; "
        + "free some or share more layers"
    }
    let before = { (name: String) in "the app was ended before \(name) was measured to its end; run it again" }
    XCTAssertEqual(watching.seen[0], [during("the first words", "a"), before("b")])
    XCTAssertEqual(watching.seen[2], [during("the first launch", "a"), before("b")])
    XCTAssertEqual(watching.seen[3], [during("a later launch", "a"), before("b")])
    XCTAssertEqual(watching.seen[4], [before("a"), during("the first launch", "b")])
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

  func testAHotDeviceIsTold() throws {
    device.thermal = "serious"
    XCTAssertEqual(
      try run(makeExport(in: directory))[0].warnings,
      ["throttled: the device was serious, so it was slowed down; let it cool, run it again"])
  }

  func testARunThatIsStoppedSaysSo() throws {
    stopsAfter = 1
    let results = try run(makeExport(in: directory))[0]
    XCTAssertEqual(results.error, "stopped after 1 of 2 repetitions; run it again")
    XCTAssertEqual(results.forward?.seconds.count, 2)
  }

  func testOtherTokensThanTheManifests() throws {
    for (tokens, said) in [
      ([4, 6, 6], "1 of 3; kernels of another CPU round differently"),
      (
        [5, 5, 6],
        "0 of 3; kernels of another CPU round differently, and here the manifest's token is 1.38 behind in logits"
      ),
      ([1, 5, 6], "0 of 3; a first token that is not even among the likeliest means another model"),
    ] as [([Int64], String)] {
      let warnings = try run(makeExport(in: temporaryDirectory(), tokens: tokens))[0].warnings
      XCTAssertEqual(warnings, ["greedy tokens part from the manifest's at position \(said)"])
    }
    XCTAssertEqual(
      BenchProtocol.divergenceWarnings([4], [4, 5], []),
      ["greedy tokens part from the manifest's at position 1 of 2; kernels of another CPU round differently"])
  }

  func testATextEndsAtAStopToken() throws {
    let results = try run(makeExport(in: directory, tokens: [4, 5, 6, 7, 0, 1]))[0]
    XCTAssertEqual(results.tokens, [4, 5, 6, 7])
  }
}

/// Looks at what is on disk whenever a model is loaded.
private final class WatchingEngine: Engine {
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
