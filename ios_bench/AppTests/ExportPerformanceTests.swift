// Measurements by Xcode itself, with no hands, on a phone, in a simulator or in a device farm:
//
//     xcodebuild test -project ios_bench/SharpBench.xcodeproj -scheme SharpBench -destination 'name=My iPhone'
//
// They measure the first export on the phone, or the one that TEST_RUNNER_SHARP_EXPORT names. `testTheWholeBenchmark`
// runs the protocol over all of them and attaches each one's results; its plan is in the environment, such as
// TEST_RUNNER_SHARP_REPETITIONS=1.

import BenchCore
import Foundation
import XCTest

@testable import SharpBench

final class ExportPerformanceTests: XCTestCase {
  private let engine = ExecuTorchEngine()
  private var export: ExportFolder!
  private var cache: PackedCache!

  override func setUpWithError() throws {
    let wanted = ProcessInfo.processInfo.environment["SHARP_EXPORT"]
    let found = Places.find().exports
    guard let first = found.first(where: { wanted == nil || $0.name == wanted }) else {
      throw XCTSkip("there is no export \(wanted ?? "") in the app or in Documents/exports; run make ios MODEL=…")
    }
    export = first
    try export.checkRuntime(engine.runtime)
    cache = PackedCache(
      directory: Places.caches,
      key: PackedCache.key(
        pteSha256: export.identity.sha256, runtime: ExecuTorchEngine.version, cpu: engine.cpuClass))
  }

  private func load(_ path: URL?) throws -> any LoadedModel {
    try engine.load(export.pte, threads: 1, packedCache: path)
  }

  /// `measure` takes a closure that cannot throw.
  private func measured(_ work: () throws -> Void) {
    measure(metrics: [XCTClockMetric(), XCTMemoryMetric()]) {
      do { try work() } catch { XCTFail(told(error)) }
    }
  }

  func testFirstLoad() {
    measured {
      cache.delete()
      try cache.make { try load($0).close() }
    }
    cache.delete()
  }

  func testLaterLoad() throws {
    try cache.make { try load($0).close() }
    measured { try load(cache.path).close() }
  }

  func testForward() throws {
    try cache.make { try load($0).close() }
    let model = try load(cache.path)
    defer { model.close() }
    let next = Greedy.argmax(try model.step(export.prompt, position: 0))
    measured { _ = try model.step([next], position: Int64(export.prompt.count)) }
  }

  func testTheWholeBenchmark() throws {
    var options = HandsFree.options(ProcessInfo.processInfo.environment)
    options["repetitions"] = options["repetitions"] ?? "2"
    let session = Session(
      plan: try Plan.parse(options), engine: engine, device: { DeviceProbe.device() }, room: { DeviceProbe.room() },
      condition: { DeviceProbe.condition($0) }, caches: Places.caches, status: nil,
      resultsFile: { Places.resultsFile($0) }, say: { print($0) }, stop: { nil })
    let results = try session.run(Places.find().exports.map(\.directory))
    for found in results {
      let attachment = XCTAttachment(string: try found.toJson())
      attachment.name = "results-ios-\(found.export.name).json"
      attachment.lifetime = .keepAlways
      add(attachment)
      XCTAssertNil(found.error)
    }
  }
}
