import XCTest

@testable import BenchCore

final class PlanTests: XCTestCase {
  func testOptions() throws {
    XCTAssertEqual(try Plan.parse([:]), Plan())
    let options = [
      "threads": "2", "repetitions": "3", "prefill": "64", "decode": "32", "depths": "16,256",
      "threads_sweep": "1,2,performance", "sustain": "120", "cool_down": "0",
    ]
    XCTAssertEqual(
      try Plan.parse(options),
      Plan(
        threads: 2, repetitions: 3, prefill: 64, decode: 32, depths: [16, 256], threadsSweep: [1, 2, 0], sustain: 120,
        coolDown: 0))
    XCTAssertEqual(try Plan.parse(["depths": "none"]).depths, [])
  }

  func testOptionsThatAreRefused() {
    for (name, value, said) in [
      ("threads", "all", "threads=all: write a whole number from 1 on"),
      ("prefill", "0", "prefill=0: write a whole number from 1 on"),
      ("sustain", "-1", "sustain=-1: write a whole number from 0 on"),
      ("cool_down", "1.5", "cool_down=1.5: write a whole number from 0 on"),
      ("depths", "1,", "depths=1,: write whole numbers from 1 on with commas between, or none"),
      ("depths", "performance", "depths=performance: write whole numbers from 1 on with commas between, or none"),
      ("threads_sweep", "0", "threads_sweep=0: write whole numbers from 1 on, or performance, with commas between"),
      (
        "speed", "9",
        "speed=9: is no option; the options are threads, repetitions, prefill, decode, depths, threads_sweep, sustain, "
          + "cool_down"
      ),
    ] {
      XCTAssertThrowsError(try Plan.parse([name: value]), said) { XCTAssertEqual(told($0), said) }
    }
  }

  func testNumbersOfThreads() {
    var device = testDevice()
    let plan = Plan(threadsSweep: [4, 0, 1, 2, 8, 1])
    XCTAssertEqual(plan.threadCounts(device), [1, 2, 4])
    device.performanceCores = nil
    XCTAssertEqual(plan.threadCounts(device), [1, 2, 4, 6])
    XCTAssertEqual(Plan().threadCounts(device), [])
  }

  func testAPlanFitsTheCache() throws {
    let export = try ExportFolder.open(makeExport(in: temporaryDirectory()))
    let plan = Plan(prefill: 128, decode: 64, depths: [1, 3, 4]).fitted(export)
    XCTAssertEqual([plan.prefill, plan.decode], [15, 13])
    XCTAssertEqual(plan.depths, [1, 3])
    let small = Plan(prefill: 4, decode: 2, depths: [14, 15])
    XCTAssertEqual(small.fitted(export).depths, [14])
  }
}
