import Foundation
import XCTest

@testable import BenchCore

/// What a listener was given, from any thread.
private final class Heard: @unchecked Sendable {
  private let gate = NSCondition()
  private var states: [RunState] = []

  var all: [RunState] { gate.withLock { states } }

  func hear(_ state: RunState) {
    gate.withLock {
      states.append(state)
      gate.broadcast()
    }
  }

  /// Wait for a state.
  func wait(_ wanted: (RunState) -> Bool) -> Bool {
    gate.withLock {
      while !states.contains(where: wanted) { if !gate.wait(until: Date() + 30) { return false } }
      return true
    }
  }
}

final class RunHolderTests: XCTestCase {
  private let holder = RunHolder()
  private let engine = FakeEngine()
  private var directory = FileManager.default.temporaryDirectory

  override func setUpWithError() throws { directory = try temporaryDirectory() }

  private func file(_ name: String) -> URL { directory.appendingPathComponent("results-\(name).json") }

  private func written(_ name: String) throws -> Results {
    try Results.parse(String(contentsOf: file(name), encoding: .utf8))
  }

  private func start(_ exports: URL..., repetitions: Int = 1) -> Bool {
    let (engine, directory) = (engine, directory)
    return holder.start(exports) { say, stop in
      Session(
        plan: Plan(repetitions: repetitions, prefill: 4, decode: 2, depths: []), engine: engine, device: testDevice,
        room: { Room(freeBytes: 1 << 30) }, condition: { Condition(at: $0) },
        caches: directory.appendingPathComponent("packed"), status: nil,
        resultsFile: { directory.appendingPathComponent("results-\($0.lastPathComponent).json") }, say: say, stop: stop)
    }
  }

  /// Have the run wait in a call until `gate` is signalled; `reached` is signalled when it waits.
  private func hold(at call: String) -> (reached: DispatchSemaphore, gate: DispatchSemaphore) {
    let (reached, gate) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
    engine.hook = {
      if $0 == call {
        reached.signal()
        gate.wait()
      }
    }
    return (reached, gate)
  }

  private func ended(_ heard: Heard) -> [Results] {
    XCTAssertTrue(heard.wait { if case .ended = $0 { true } else { false } })
    guard case .ended(let results, nil) = heard.all.last else { return [] }
    return results
  }

  func testOneRunAtATime() throws {
    let export = try makeExport(in: directory)
    let (reached, gate) = hold(at: "shared load without")
    let heard = Heard()
    _ = holder.watch(heard.hear)
    XCTAssertTrue(start(export))
    reached.wait()
    XCTAssertFalse(start(export))
    gate.signal()
    XCTAssertEqual(ended(heard).map(\.status), ["ok"])
    XCTAssertEqual(engine.calls.filter { $0 == "shared load without" }.count, 1)
    engine.hook = { _ in }
    let again = Heard()
    XCTAssertTrue(start(export))
    _ = holder.watch(again.hear)
    XCTAssertEqual(ended(again).map(\.status), ["ok"])
  }

  func testAScreenThatIsMadeAnewMissesNothing() throws {
    let export = try makeExport(in: directory)
    let (reached, gate) = hold(at: "shared load unpacked")
    let (first, second) = (Heard(), Heard())
    let number = holder.watch(first.hear)
    XCTAssertEqual(first.all, [.idle])
    XCTAssertTrue(start(export))
    reached.wait()
    holder.unwatch(number)
    let line = RunState.running("repetition 1 of 1: shared")
    XCTAssertEqual(first.all, [.idle, .running("opening"), line])
    _ = holder.watch(second.hear)
    XCTAssertEqual(second.all, [line])
    gate.signal()
    let results = ended(second)
    XCTAssertEqual(results.map(\.status), ["ok"])
    XCTAssertEqual(first.all.last, line)
    // One that comes after the end sees it.
    let late = Heard()
    _ = holder.watch(late.hear)
    XCTAssertEqual(late.all, [.ended(results, error: nil)])
  }

  func testARunThatCannotBeDoneEndsWithItsReason() {
    let heard = Heard()
    _ = holder.watch(heard.hear)
    XCTAssertTrue(start())
    XCTAssertTrue(heard.wait { if case .ended = $0 { true } else { false } })
    XCTAssertEqual(
      heard.all.last, .ended([], error: "no export is named; name a directory with a manifest.json"))
  }

  func testTheUserStops() throws {
    let export = try makeExport(in: directory)
    holder.stop()  // without effect: nothing runs
    let (reached, gate) = hold(at: "shared step 1 at 3")
    let heard = Heard()
    _ = holder.watch(heard.hear)
    XCTAssertTrue(start(export, repetitions: 2))
    reached.wait()  // in the first words
    holder.stop()
    engine.hook = { _ in }
    gate.signal()
    XCTAssertEqual(ended(heard).map(\.error), ["stopped after 0 of 2 repetitions; run it again"])
    XCTAssertFalse(engine.calls.contains("shared load unpacked"))
  }

  func testTheBackgroundMarksTheLaunchThatItCuts() throws {
    let exports = try [makeExport(in: directory, name: "a"), makeExport(in: directory, name: "b", pte: "another")]
    let (reached, gate) = hold(at: "a load packed")
    let heard = Heard()
    _ = holder.watch(heard.hear)
    XCTAssertTrue(start(exports[0], exports[1]))
    reached.wait()
    holder.background()
    // The system may end the app now: the file is right already.
    let said =
      "the app went to the background during a later launch of a, which is not counted; "
      + "keep the app in front and run it again"
    XCTAssertEqual(try written("a").error, said)
    XCTAssertEqual(try written("b").error, "the app was ended before b was measured to its end; run it again")
    gate.signal()
    let results = ended(heard)
    XCTAssertEqual(results.map(\.error), [said, "stopped after 0 of 1 repetitions; run it again"])
    XCTAssertNil(results[0].forward)
    XCTAssertEqual(results[0].load?.first?.seconds.count, 1)
    XCTAssertEqual(try written("a"), results[0])
    // Without effect when nothing runs.
    holder.background()
    XCTAssertEqual(try written("a"), results[0])
  }

  func testAJournalIsInterruptedOnlyWhileALaunchIsUnderWay() throws {
    let journal = Journal(file("a"))
    let results = Results(
      created: now(), device: testDevice(), export: ExportFolder.unreadable(directory),
      settings: Settings(harness: "x", runtime: "y", threads: 1, weightCache: true, packedCache: true))
    journal.interrupted()
    XCTAssertNil(fileBytes(file("a")))
    try journal.begin(results, "the check")
    XCTAssertTrue(try written("a").error!.contains("the system ended the app during the check"))
    journal.interrupted()
    XCTAssertTrue(try written("a").error!.contains("went to the background during the check"))
    try journal.pause(results)
    journal.interrupted()
    XCTAssertTrue(try written("a").error!.contains("the app was ended before"))
    try journal.begin(results, "the check")
    try journal.finish(results)
    journal.interrupted()
    XCTAssertNil(try written("a").error)
  }
}
