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
    XCTAssertEqual(Statistics.percentile([4, 1, 3, 2], 90), 3.7, accuracy: 1e-12)
    XCTAssertEqual(Statistics.percentile([4, 1, 3, 2], 100), 4)
    XCTAssertEqual(Statistics.percentile([4, 1, 3, 2], 0), 1)
    XCTAssertEqual(Statistics.percentile([3], 90), 3)
    XCTAssertEqual(Statistics.sampleStandardDeviation([3]), 0)
    XCTAssertEqual(Statistics.tokensPerSecond(TokenSamples(seconds: [0.5, 0.25, 1], tokens: 10)), 20)
  }

  func testSparkline() {
    XCTAssertEqual(Statistics.sparkline([0, 1, 2, 3, 4, 5, 6, 7], width: 8), "▁▂▃▄▅▆▇█")
    XCTAssertEqual(Statistics.sparkline([30, 30, 15, 15, 30], width: 40), "██▅▅█")
    // Two halves of three: their means are 2 and 6.
    XCTAssertEqual(Statistics.sparkline([1, 2, 3, 5, 6, 7], width: 2), "▃█")
    XCTAssertEqual(Statistics.sparkline([1, 7, 7], width: 2), "▂█")
    XCTAssertEqual(Statistics.sparkline([0, 0], width: 8), "▁▁")
    XCTAssertEqual(Statistics.sparkline([], width: 8), "")
  }

  func testGreedy() throws {
    XCTAssertEqual(Greedy.argmax([1, 3, 3, 2]), 1)
    XCTAssertEqual(Greedy.likeliest([1, 3, 3, 2], 3).map(\.token), [1, 2, 3])
    XCTAssertEqual(Greedy.likeliest([1, 3], 5).map(\.logit), [3, 1])
    let engine = FakeEngine()
    let model = FakeModel(engine: engine, name: "m")
    // 7 is an end token to a continuation, and not to one that is timed.
    let logits = try model.step([5], position: 2)
    XCTAssertEqual(try Greedy.continuation(model, logits, position: 3, count: 4, stop: [7]), [6, 7])
    engine.calls = []
    let seconds = try Greedy.timedContinuation(model, logits, position: 3, count: 3, clock: engine.clock)
    XCTAssertEqual(seconds, [0.25, 0.25, 0.25])
    XCTAssertEqual(engine.calls, ["m step 1 at 3", "m step 1 at 4", "m step 1 at 5"])
  }
}
