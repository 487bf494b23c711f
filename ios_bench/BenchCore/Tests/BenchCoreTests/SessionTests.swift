import Foundation
import XCTest

@testable import BenchCore

final class SessionTests: XCTestCase {
  private var directory = FileManager.default.temporaryDirectory
  private var lines: [String] = []

  override func setUpWithError() throws { directory = try temporaryDirectory() }

  private func run(_ directories: [URL], engine: FakeEngine = FakeEngine()) throws -> [Results] {
    let session = Session(
      plan: Plan(repetitions: 1, prefill: 4, decode: 2), engine: engine,
      device: testDevice, room: { Room(freeBytes: 1 << 30) }, condition: { Condition(at: $0) }, caches: nil,
      status: Status(directory.appendingPathComponent("status.json")),
      resultsFile: { [directory] in directory.appendingPathComponent("results-\($0.lastPathComponent).json") },
      say: { [test = UncheckedSendable(self)] in
        test.value.lines.append($0)
        XCTAssertEqual(try? test.value.status()["state"] as? String, "running")
      }, stop: { nil })
    return try session.run(directories)
  }

  private func status() throws -> [String: Any] {
    let data = try Data(contentsOf: directory.appendingPathComponent("status.json"))
    return try JSONSerialization.jsonObject(with: data) as! [String: Any]
  }

  func testARunLeavesResultsAndItsState() throws {
    let broken = directory.appendingPathComponent("broken")
    try FileManager.default.createDirectory(at: broken, withIntermediateDirectories: true)
    let found = try run([broken, makeExport(in: directory)])
    XCTAssertEqual(found.map(\.status), ["failed", "ok"])
    XCTAssertTrue(found[0].error!.contains("it has no manifest.json"))
    for (name, results) in zip(["broken", "shared"], found) {
      let text = try String(contentsOf: directory.appendingPathComponent("results-\(name).json"), encoding: .utf8)
      XCTAssertEqual(try Results.parse(text), results)
    }
    XCTAssertEqual(lines, ["repetition 1 of 1: shared"])
    XCTAssertEqual(try status()["state"] as? String, "done")
    XCTAssertTrue(try status()["error"] is NSNull)
  }

  func testARunThatCannotBeDoneSaysWhy() throws {
    XCTAssertThrowsError(try run([]))
    XCTAssertEqual(try status()["state"] as? String, "failed")
    XCTAssertEqual(try status()["error"] as? String, "no export is named; name a directory with a manifest.json")
    let export = try makeExport(in: directory)
    XCTAssertThrowsError(try run([export, export])) { XCTAssertTrue(told($0).contains("shared: is named twice")) }
  }
}
