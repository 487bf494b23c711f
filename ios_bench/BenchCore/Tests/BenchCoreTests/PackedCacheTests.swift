import Foundation
import XCTest

@testable import BenchCore

final class PackedCacheTests: XCTestCase {
  private func write(_ text: String) -> (URL) throws -> Void { { try Data(text.utf8).write(to: $0) } }

  private func cache(_ key: String = "0123456789abcdef-and-more", in directory: URL) -> PackedCache {
    PackedCache(directory: directory, key: key)
  }

  /// Python: cache_key("ab", "executorch 1.5.1", "a CPU")
  func testTheKeyIsPythons() {
    XCTAssertEqual(
      PackedCache.key(pteSha256: "ab", runtime: "executorch 1.5.1", cpu: "a CPU"),
      "033f93b3e8205618c86c4c943da637a22143b486303dc16c9b7c555f70aec026")
  }

  func testWhatWasSealedIsBelieved() throws {
    let directory = try temporaryDirectory().appendingPathComponent("caches")
    let cache = cache(in: directory)
    XCTAssertFalse(cache.believed())
    try cache.make(write("packed"))
    XCTAssertTrue(cache.believed())
    XCTAssertEqual(cache.path.lastPathComponent, "0123456789abcdef.packed")
    let used = try cache.usedBy({ try String(contentsOf: $0, encoding: .utf8) }, pack: write("anew"))
    XCTAssertEqual(used, "packed")
  }

  func testWhatIsNotAsSealedIsDeleted() throws {
    let cache = cache(in: try temporaryDirectory())
    for spoil in [
      { try Data("pocked".utf8).write(to: cache.path) },
      { try Data("packe".utf8).write(to: cache.path) },
      { try FileManager.default.removeItem(at: cache.path.deletingPathExtension().appendingPathExtension("json")) },
    ] {
      try cache.make(write("packed"))
      try spoil()
      XCTAssertFalse(cache.believed())
      XCTAssertNil(fileBytes(cache.path))
    }
    try cache.make(write("packed"))
    XCTAssertFalse(
      PackedCache(directory: cache.path.deletingLastPathComponent(), key: "0123456789abcdef-other").believed())
  }

  func testALaunchThatFailsLeavesNothing() throws {
    let cache = cache(in: try temporaryDirectory())
    XCTAssertThrowsError(
      try cache.make { path in
        try Data("half".utf8).write(to: path)
        throw Failure("killed")
      })
    XCTAssertNil(fileBytes(cache.path))
    XCTAssertThrowsError(try cache.make { _ in }) { XCTAssertTrue(told($0).contains("wrote no packed weights")) }
  }

  func testALaunchThatChangesTheFileIsThrownAwayAndDoneAgain() throws {
    let cache = cache(in: try temporaryDirectory())
    try cache.make(write("of another CPU"))
    var launches = 0
    let used = try cache.usedBy(
      { path -> String in
        launches += 1
        let found = try String(contentsOf: path, encoding: .utf8)
        if found == "of another CPU" { try Data("of another CPU, and more".utf8).write(to: path) }
        return found
      }, pack: write("of this CPU"))
    XCTAssertEqual(used, "of this CPU")
    XCTAssertEqual(launches, 2)
    XCTAssertThrowsError(
      try cache.usedBy({ path in try Data("\(launches)\(UUID())".utf8).write(to: path) }, pack: write("x"))
    ) {
      XCTAssertTrue(told($0).contains("refuses what it has packed itself"))
    }
  }

  func testPackedWeightsThatAnExportBrings() throws {
    let parent = try temporaryDirectory()
    let directory = try makeExport(in: parent)
    let file = directory.appendingPathComponent("phone.cache")
    try Data("brought".utf8).write(to: file)
    let export = try ExportFolder.open(directory)
    let packed = PackedWeights(
      file: "phone.cache", profile: "phone", cpuClass: "arm64", runtime: "1.5.1", pteSha256: export.identity.sha256,
      sha256: try sha256Of(file), bytes: 7)
    let cache = cache(in: parent)
    XCTAssertFalse(try cache.bring(packed, export, "1.5.1", "another"))
    XCTAssertFalse(try cache.bring(packed, export, "1.6.0", "arm64"))
    XCTAssertTrue(try cache.bring(packed, export, "1.5.0", "arm64"))
    XCTAssertTrue(cache.believed())
    try Data("brOught".utf8).write(to: file)
    XCTAssertThrowsError(try cache.bring(packed, export, "1.5.1", "arm64")) {
      XCTAssertTrue(told($0).contains("phone.cache: is damaged or gone"))
    }
  }
}
