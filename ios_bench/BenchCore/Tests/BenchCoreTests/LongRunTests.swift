import Foundation
import XCTest

@testable import BenchCore

/// The sweep and the sustained run, and runs that end early.
final class LongRunTests: XCTestCase {
  private let engine = FakeEngine()
  private var plan = Plan(repetitions: 1, warmups: 0, forwards: 1, prefill: 5, decode: 2, depths: [])
  private var directory = FileManager.default.temporaryDirectory
  private var stops: () -> Stop? = { nil }
  private var lines: [String] = []

  override func setUpWithError() throws { directory = try temporaryDirectory() }

  private func run(_ names: String...) throws -> [Results] {
    let exports = try names.map { try ExportFolder.open(makeExport(in: directory, name: $0, pte: "program \($0)")) }
    let place = makePlace(engine, caches: directory.appendingPathComponent("packed")) { [directory] in
      directory.appendingPathComponent("results-\($0.lastPathComponent).json")
    }
    return BenchProtocol.run(
      exports, plan, engine, place, progress: { self.lines.append($0) }, stop: { self.stops() })
  }

  private func loads(_ name: String) -> Int { engine.calls.filter { $0.hasPrefix("\(name) load") }.count }

  func testThreads() throws {
    plan.threadsSweep = [2, 0, 4]
    plan.repetitions = 2
    let found = try run("a", "b")
    XCTAssertEqual(lines.suffix(4), ["2 threads: a", "4 threads: a", "2 threads: b", "4 threads: b"])
    let start = engine.calls.firstIndex(of: "a load packed on 2 threads")!
    let once = ["a step 5 at 0", "a step 3 at 0", "a step 1 at 3", "a step 1 at 4"]
    XCTAssertEqual(
      Array(engine.calls[(start + 1)...(start + 10)]), ["a step 3 at 0"] + once + once + ["a close"])
    for results in found {
      XCTAssertNil(results.error)
      XCTAssertEqual(results.threadsSweep?.map(\.threads), [2, 4])
      XCTAssertEqual(results.threadsSweep?[1].prefill, TokenSamples(seconds: [0.25, 0.25], tokens: 5))
      XCTAssertEqual(results.threadsSweep?[1].decode, TokenSamples(seconds: [0.5, 0.5], tokens: 2))
    }
  }

  func testSustained() throws {
    plan.sustain = 12
    let results = try run("a")[0]
    XCTAssertNil(results.error)
    // A cycle takes 0.75 s, of which 0.5 s are timed: a window is two cycles, and 16 cycles end at 12 s.
    XCTAssertEqual(results.sustained?.count, 8)
    let windows = try XCTUnwrap(results.sustained)
    XCTAssertTrue(windows.allSatisfy { $0.tokens == 4 && $0.seconds == 1 })
    XCTAssertEqual(zip(windows, windows.dropFirst()).map { $1.at - $0.at }, [Double](repeating: 1.5, count: 7))
    XCTAssertEqual(windows.last?.at, engine.seconds)
    XCTAssertEqual(lines, ["repetition 1 of 1: a", "sustained: a, 0 of 12 s", "sustained: a, 10 of 12 s"])
  }

  func testTheUserStops() throws {
    (plan.repetitions, plan.threadsSweep, plan.sustain) = (2, [2, 4], 30)
    for (stop, said) in [
      ({ self.loads("a") == 4 }, "stopped after 1 of 2 repetitions; run it again"),
      ({ self.engine.calls.contains("a load packed on 2 threads") }, "stopped during the threads sweep; run it again"),
      ({ self.lines.contains("sustained: a, 10 of 30 s") }, "stopped during the sustained run; run it again"),
    ] as [(() -> Bool, String)] {
      (engine.calls, lines, directory) = ([], [], try temporaryDirectory())
      stops = { stop() ? .user : nil }
      let results = try run("a")[0]
      XCTAssertEqual(results.error, said)
      XCTAssertEqual(engine.calls.last, "a close")
      // What was measured stays.
      XCTAssertFalse(try XCTUnwrap(results.forward).seconds.isEmpty)
      if said.contains("threads") { XCTAssertEqual(results.threadsSweep?.map(\.threads), [2]) }
      if said.contains("sustained") { XCTAssertEqual(results.sustained?.count, 7) }
    }
  }

  func testALaunchInTheBackgroundDoesNotCount() throws {
    (plan.repetitions, plan.threadsSweep, plan.sustain) = (2, [2], 30)
    for (call, stage, check) in [
      ("a step 3 at 0", "the first words", { XCTAssertEqual($0.tokens, []) }),
      ("a step 5 at 0", "the first launch", { XCTAssertNil($0.load?.first) }),
      ("a step 1 at 3", "a later launch", { XCTAssertNil($0.forward) }),
      ("a load packed on 2 threads", "the threads sweep", { XCTAssertEqual($0.threadsSweep, []) }),
    ] as [(String, String, (Results) -> Void)] {
      (engine.calls, lines, directory) = ([], [], try temporaryDirectory())
      let after = stage == "a later launch" ? 5 : 0  // behind the first words
      stops = { self.engine.calls.dropFirst(after).contains(call) ? .background : nil }
      let found = try run("a", "b")
      XCTAssertEqual(
        found[0].error,
        "the app went to the background during \(stage) of a, which is not counted; keep the app in front and run it again"
      )
      check(found[0])
      XCTAssertEqual(found[1].status, "failed")
      XCTAssertFalse(engine.calls.last!.contains("load"))
    }
    engine.calls = []
    stops = { self.lines.contains("sustained: a, 10 of 30 s") ? .background : nil }
    let results = try run("a")[0]
    XCTAssertTrue(results.error!.contains("during the sustained run of a"))
    XCTAssertEqual(results.sustained, [])
    XCTAssertEqual(results.threadsSweep?.count, 1)
    XCTAssertEqual(results.decode?.seconds.count, 2)
  }

  func testCoolingDownEndsWithAStop() throws {
    plan.coolDown = 3600
    let start = uptime()
    stops = { uptime() - start > 0.3 ? .user : nil }
    XCTAssertEqual(try run("a")[0].error, "stopped after 0 of 1 repetitions; run it again")
    XCTAssertLessThan(uptime() - start, 60)
    XCTAssertEqual(loads("a"), 1)
    (plan.coolDown, stops, engine.calls) = (1, { nil }, [])
    let again = uptime()
    XCTAssertNil(try run("a")[0].error)
    XCTAssertGreaterThanOrEqual(uptime() - again, 1)
  }
}
