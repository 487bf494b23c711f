import Foundation
import XCTest

@testable import BenchCore

final class ExportFolderTests: XCTestCase {
  private func refused(_ said: String, _ work: @autoclosure () throws -> Any) {
    XCTAssertThrowsError(try work(), said) {
      XCTAssertTrue(told($0).contains(said), "\(told($0)) does not contain \(said)")
    }
  }

  func testAnExportIsOpened() throws {
    let export = try ExportFolder.open(makeExport(in: temporaryDirectory()))
    XCTAssertEqual(export.identity.unsharedBytes, 9 + 7 - 3)
    XCTAssertEqual(export.identity.divergence, 0.5)
    XCTAssertEqual(export.prompt, [1, 2, 3])
    XCTAssertEqual(export.expectedTokens, [4, 5, 6])
    XCTAssertEqual(export.stop, [7])
    XCTAssertEqual(export.length, 16)
    XCTAssertEqual(export.name, "shared")
    try export.checkHash()
    try export.checkRuntime("executorch 1.5.1")
    try export.checkRuntime("executorch 1.5.0")
    refused(
      "was exported for executorch 1.5.1, this app has executorch 1.6.0", try export.checkRuntime("executorch 1.6.0"))
  }

  func testWhatIsBrokenIsToldWithItsReason() throws {
    let parent = try temporaryDirectory()
    let none = parent.appendingPathComponent("none")
    refused("none: is not an export's directory: it has no manifest.json", try ExportFolder.open(none))
    let cut = try makeExport(in: parent, name: "cut")
    try Data("a pro".utf8).write(to: cut.appendingPathComponent("model.pte"))
    refused("model.pte: has 5 bytes, its manifest says 9", try ExportFolder.open(cut))
    let gone = try makeExport(in: parent, name: "gone")
    try FileManager.default.removeItem(at: gone.appendingPathComponent("model.pte"))
    refused("model.pte: is missing", try ExportFolder.open(gone))
    let other = try makeExport(in: parent, name: "other", with: ["format_version": 2])
    refused("is of format 2, this app reads 1", try ExportFolder.open(other))
    let half = try makeExport(in: parent, name: "half")
    try Data("{\"name\": \"ha".utf8).write(to: half.appendingPathComponent("manifest.json"))
    refused("manifest.json: ", try ExportFolder.open(half))
    let less = try makeExport(in: parent, name: "less", with: ["metadata": ["use_kv_cache": true]])
    refused("metadata.get_max_context_len: is missing", try ExportFolder.open(less))
    let changed = try makeExport(in: parent, name: "changed")
    try Data("b program".utf8).write(to: changed.appendingPathComponent("model.pte"))
    refused("is not the file of its manifest", try ExportFolder.open(changed).checkHash())
    _ = try makeExport(in: parent, name: "a")
    try Data().write(to: parent.appendingPathComponent("a file"))

    let found = ExportFolder.find(parent)
    XCTAssertEqual(found.exports.map(\.name), ["a", "changed"])
    XCTAssertEqual(found.broken.map(\.name), ["cut", "gone", "half", "less", "other"])
    XCTAssertTrue(found.broken[0].reason.contains("has 5 bytes"))
    XCTAssertTrue(ExportFolder.find(none).exports.isEmpty)
  }

  func testTooLittleRoomIsTold() throws {
    let export = try ExportFolder.open(makeExport(in: temporaryDirectory()))
    try Requirements.check(Room(freeBytes: 9, availableMemory: 0), packedOnDisk: true, export)
    try Requirements.check(Room(freeBytes: 0), packedOnDisk: false, export)
    refused("of disk", try Requirements.check(Room(freeBytes: 8), packedOnDisk: true, export))
    refused(
      "of memory", try Requirements.check(Room(freeBytes: 9, availableMemory: 8), packedOnDisk: false, export))
  }
}
