// A model without weights: token t is followed by t + 1, and the cache of packed weights is a file with a line in it.
// Its clock goes by its calls: half a second for a load, a quarter for a step.

import Foundation

@testable import BenchCore

final class FakeEngine: Engine, @unchecked Sendable {
  var harness = "fake"
  var runtime = "executorch 1.5.1"
  var weightCache = true
  var packedCache = true
  var cpuClass = "a CPU"
  var limits: [String] = []
  var calls: [String] = []
  var failsAt: String?
  var appends = false
  var seconds = 0.0
  /// The system's marks of the most memory.
  var marks = Memory(anonymous: 0, file: 0, peak: 0)
  /// Called at each call, before it is done.
  var hook: (String) -> Void = { _ in }

  var clock: @Sendable () -> Double { { self.seconds } }

  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel {
    let name = pte.deletingLastPathComponent().lastPathComponent
    let there = packedCache.map { fileBytes($0) != nil }
    try tell("\(name) load \(there.map { $0 ? "packed" : "unpacked" } ?? "without")")
    if threads != 1 { calls[calls.count - 1] += " on \(threads) threads" }
    seconds += 0.5
    if let packedCache, there == false || appends {
      try Data("packed".utf8 + ((try? Data(contentsOf: packedCache)) ?? Data())).write(to: packedCache)
    }
    return FakeModel(engine: self, name: name)
  }

  func memory() -> Memory {
    let steps = Int64(calls.filter { $0.contains("step") }.count)
    return Memory(
      anonymous: 100 + steps, file: 1000, peak: marks.peak, footprint: 50 + steps, footprintPeak: marks.footprintPeak)
  }

  func tell(_ call: String) throws {
    hook(call)
    calls.append(call)
    if call == failsAt { throw Failure("\(call) fails") }
  }
}

struct FakeModel: LoadedModel {
  let engine: FakeEngine
  let name: String

  func step(_ tokens: [Int64], position: Int64) throws -> [Float] {
    try engine.tell("\(name) step \(tokens.count) at \(position)")
    engine.seconds += 0.25
    return (0..<8).map { $0 == (tokens.last! + 1) % 8 ? 2 : Float($0) / 8 }
  }

  func close() { engine.calls.append("\(name) close") }
}

/// A directory that is gone after the test, with an export in it.
func temporaryDirectory() throws -> URL {
  let directory = FileManager.default.temporaryDirectory.appendingPathComponent("bench-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
  return directory
}

/// Where a test runs: what is not measured there is like this.
func makePlace(
  _ engine: FakeEngine, room: Room = Room(freeBytes: 1 << 30), caches: URL?, journal: @escaping (URL) -> URL
) -> Place {
  let file = UncheckedSendable(journal)
  return Place(
    device: testDevice, room: { room }, condition: { Condition(at: $0, thermal: "nominal") }, caches: caches,
    journal: { Journal(file.value($0.directory)) }, clock: engine.clock)
}

let testDevice: @Sendable () -> Device = {
  Device(kind: "ios", model: "iPhone0,0", os: "iOS 17", cpu: "A0", cores: 6, performanceCores: 2, thermal: "nominal")
}

struct UncheckedSendable<Value>: @unchecked Sendable {
  let value: Value

  init(_ value: Value) { self.value = value }
}

func makeExport(
  in parent: URL, name: String = "shared", pte: String = "a program", tokens: [Int64] = [4, 5, 6],
  executorch: String = "1.5.1", with more: [String: Any] = [:]
) throws -> URL {
  let directory = parent.appendingPathComponent(name)
  let file = directory.appendingPathComponent("model.pte")
  try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
  try Data(pte.utf8).write(to: file)
  let manifest: [String: Any] = [
    "format_version": 1, "name": name, "plan": "2:3", "sha256": try sha256Of(file), "divergence": 0.5,
    "sizes": ["file": pte.utf8.count, "tensors": 5, "shared": 7, "recovery": 3],
    "metadata": ["get_max_context_len": 16, "get_eos_ids": [7], "use_kv_cache": true],
    "expected": ["prompt": "x", "prompt_tokens": [1, 2, 3], "tokens": tokens, "text": "y"],
    "versions": ["executorch": executorch, "torch": "2"], "layers": 4,
  ].merging(more) { $1 }
  try JSONSerialization.data(withJSONObject: manifest).write(to: directory.appendingPathComponent("manifest.json"))
  return directory
}
