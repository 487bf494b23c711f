import XCTest

@testable import BenchCore

final class StatisticsTests: XCTestCase {
  func testStatistics() {
    let seconds = [0.01, 0.02, 0.03, 0.02, 0.02]
    XCTAssertEqual(Statistics.mean(seconds), 0.02, accuracy: 1e-12)
    XCTAssertEqual(Statistics.sampleStandardDeviation(seconds), 0.0070710678, accuracy: 1e-9)
    XCTAssertEqual(Statistics.median(seconds), 0.02)
    XCTAssertEqual(Statistics.median([4, 1, 3, 2]), 2.5)
    XCTAssertEqual(Statistics.minimum(seconds), 0.01)
    XCTAssertEqual(Statistics.sampleStandardDeviation([3]), 0)
    XCTAssertEqual(Statistics.tokensPerSecond(TokenSamples(seconds: [0.5, 0.25, 1], tokens: 10)), 20)
  }

  func testGreedy() {
    XCTAssertEqual(Greedy.argmax([1, 3, 3, 2]), 1)
    XCTAssertEqual(Greedy.likeliest([1, 3, 3, 2], 3).map(\.token), [1, 2, 3])
    XCTAssertEqual(Greedy.likeliest([1, 3], 5).map(\.logit), [3, 1])
  }
}
