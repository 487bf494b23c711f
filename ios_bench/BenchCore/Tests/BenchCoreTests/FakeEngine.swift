// A model without weights: token t is followed by t + 1, and the cache of packed weights is a file with a line in it.

import Foundation

@testable import BenchCore

final class FakeEngine: Engine {
  var harness = "fake"
  var runtime = "executorch 1.5.1"
  var weightCache = true
  var packedCache = true
  var cpuClass = "a CPU"
  var limits: [String] = []
  var calls: [String] = []
  var failsAt: String?
  var appends = false

  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel {
    let name = pte.deletingLastPathComponent().lastPathComponent
    let there = packedCache.map { fileBytes($0) != nil }
    try tell("\(name) load \(there.map { $0 ? "packed" : "unpacked" } ?? "without")")
    if let packedCache, there == false || appends {
      try Data("packed".utf8 + ((try? Data(contentsOf: packedCache)) ?? Data())).write(to: packedCache)
    }
    return FakeModel(engine: self, name: name)
  }

  func memory() -> Memory {
    let steps = Int64(calls.filter { $0.contains("step") }.count)
    return Memory(anonymous: 100 + steps, file: 1000, peak: 0)
  }

  func tell(_ call: String) throws {
    calls.append(call)
    if call == failsAt { throw Failure("\(call) fails") }
  }
}

struct FakeModel: LoadedModel {
  let engine: FakeEngine
  let name: String

  func step(_ tokens: [Int64], position: Int64) throws -> [Float] {
    try engine.tell("\(name) step \(tokens.count) at \(position)")
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
