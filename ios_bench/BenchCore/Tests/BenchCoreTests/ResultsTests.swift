import Foundation
import XCTest

@testable import BenchCore

private let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .appendingPathComponent("../../../../tests/fixtures/results").standardized

final class ResultsTests: XCTestCase {
  private func results() throws -> Results {
    try Results.parse(String(contentsOf: fixtures.appendingPathComponent("swift.json"), encoding: .utf8))
  }

  func testWhatIsWrittenIsRead() throws {
    let file = try temporaryDirectory().appendingPathComponent("deep/results.json")
    try results().write(file)
    XCTAssertEqual(try Results.parse(String(contentsOf: file, encoding: .utf8)), try results())
    XCTAssertEqual(
      try FileManager.default.contentsOfDirectory(atPath: file.deletingLastPathComponent().path), ["results.json"])
  }

  func testAllLanguagesWriteTheSame() throws {
    let names = try FileManager.default.contentsOfDirectory(atPath: fixtures.path).filter { $0.hasSuffix(".json") }
    XCTAssertTrue(names.contains("swift.json"))
    for name in names {
      var read = try Results.parse(String(contentsOf: fixtures.appendingPathComponent(name), encoding: .utf8))
      read.settings.harness = "swift"
      // What is empty or null is the same as what is absent.
      if read.load == nil { read.load = Load() }
      XCTAssertEqual(read, try results(), name)
    }
  }

  func testWhatIsNotOfTheSchemaIsRefused() throws {
    let json = try results().toJson()
    for (from, to, said) in [
      ("{", "", "is not a whole results file"),
      ("\"schema_version\" : 2", "\"schema_version\" : 3", "is of schema version 3, this program reads version 2"),
      ("\"schema_version\" : 2,", "", "has no schema version"),
      ("\"cores\" : 2", "\"cores\" : \"two\"", "device.cores: is of another type"),
      ("\"cores\" : 2,", "", "device.cores: is missing"),
      ("\"cores\" : 2", "\"cores\" : 2, \"speed\" : 3", "device.speed: is not in schema version 2"),
      ("\"status\"", "\"state\"", "status: is missing"),
      ("\"failed\"", "\"ok\"", "has an error"),
      ("0.25", "0", "seconds: must be above zero"),
      ("1.25", "0", "seconds: must be above zero"),
      ("0.75", "-1", "seconds: must be above zero"),
    ] {
      let changed = json.replacingFirst(from, to)
      XCTAssertNotEqual(changed, json)
      XCTAssertThrowsError(try Results.parse(changed), said) {
        XCTAssertTrue(told($0).contains(said), "\(told($0)) does not contain \(said)")
      }
    }
  }

  func testWhatIsNullIsNotMeasured() throws {
    let json = try results().toJson()
    XCTAssertEqual(try Results.parse(json.replacingFirst("{", "{\"counts\": null, \"prefill\": null,")), try results())
  }

  func testALogitThatIsNoNumberIsToldAndNotWritten() throws {
    var found = try results()
    found.likeliest = [Likely(token: 1, logit: .infinity)]
    XCTAssertThrowsError(try found.toJson()) { XCTAssertTrue(told($0).contains("no JSON can hold")) }
  }
}

extension String {
  func replacingFirst(_ from: String, _ to: String) -> String {
    guard let range = range(of: from) else { return self }
    return replacingCharacters(in: range, with: to)
  }
}
