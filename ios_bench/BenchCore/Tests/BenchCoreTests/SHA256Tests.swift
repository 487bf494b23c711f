import Foundation
import XCTest

@testable import BenchCore

/// NIST's examples of FIPS 180-4, and every length around a block's ends against one digest of them all.
final class SHA256Tests: XCTestCase {
  private func sha256(_ text: String) -> String {
    var digest = SHA256()
    digest.update(text.utf8)
    return digest.hex()
  }

  func testKnownDigests() {
    XCTAssertEqual(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    XCTAssertEqual(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    XCTAssertEqual(
      sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")
    XCTAssertEqual(
      sha256(String(repeating: "a", count: 1_000_000)),
      "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0")
  }

  /// Python: hashlib.sha256("".join(hashlib.sha256(b"a" * n).hexdigest() for n in range(130)).encode()).hexdigest()
  func testAllLengths() {
    XCTAssertEqual(
      sha256((0..<130).map { sha256(String(repeating: "a", count: $0)) }.joined()),
      "c665ed20ef30f158e90c7e921d8182bc0943c4b087a82f64a18d417bcdfadce7")
  }

  func testAFileInPiecesIsAsWhole() throws {
    let file = try temporaryDirectory().appendingPathComponent("file")
    let text = String(repeating: "0123456789", count: 250_001)
    try Data(text.utf8).write(to: file)
    XCTAssertEqual(try sha256Of(file), sha256(text))
    XCTAssertEqual(fileBytes(file), 2_500_010)
    XCTAssertNil(fileBytes(file.deletingLastPathComponent()))
    XCTAssertThrowsError(try sha256Of(file.appendingPathExtension("none"))) {
      XCTAssertTrue(told($0).contains("file.none: cannot be read"))
    }
  }
}
