import Foundation
import XCTest

@testable import BenchCore

final class ConditionsTests: XCTestCase {
  func testSamplesAreTakenUntilTheEnd() {
    let start = uptime()
    let sampler = Sampler(
      probe: { Condition(at: $0, clocksHz: [1]) }, every: 0.02, elapsed: { uptime() - start })
    XCTAssertEqual(sampler.taken(), [])
    sampler.start()
    XCTAssertGreaterThanOrEqual(sampler.taken().count, 1)
    while sampler.taken().count < 4 && uptime() - start < 30 { Thread.sleep(forTimeInterval: 0.01) }
    let before = uptime() - start
    sampler.stop()
    let samples = sampler.taken()
    XCTAssertGreaterThanOrEqual(samples.count, 5)
    XCTAssertEqual(samples.map(\.at), samples.map(\.at).sorted())
    XCTAssertGreaterThanOrEqual(samples.last!.at, before)
    Thread.sleep(forTimeInterval: 0.1)
    XCTAssertEqual(sampler.taken().count, samples.count)
  }

  func testARunThatIsShorterThanASecondHasTwo() {
    let sampler = Sampler(probe: { Condition(at: $0) }, every: 2, elapsed: { 0 })
    sampler.start()
    let start = uptime()
    sampler.stop()
    XCTAssertEqual(sampler.taken().count, 2)
    XCTAssertLessThan(uptime() - start, 1.5)
  }
}
