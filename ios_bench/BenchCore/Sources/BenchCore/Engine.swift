// What runs a .pte, as the protocol sees it. The app's is ExecuTorch itself; on a computer it is host_bench/engine.h.

import Foundation

/// `harness`, `runtime`: as `Settings` has them. `weightCache`, `packedCache`: what the engine can set. `cpuClass`: what
/// two CPUs have in common if XNNPACK packs alike for them. `limits`: what it cannot set or measure, in sentences.
public protocol Engine: Sendable {
  var harness: String { get }
  var runtime: String { get }
  var weightCache: Bool { get }
  var packedCache: Bool { get }
  var cpuClass: String { get }
  var limits: [String] { get }

  /// Load and init: after this every delegate has its packed weights.
  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel

  /// Of this process, now. `peak` and `footprintPeak` are the system's marks of the process's whole life; `peak` is 0,
  /// and `footprintPeak` nil, where it has none.
  func memory() -> Memory
}

public protocol LoadedModel {
  /// Run tokens from a position on; the logits of the last one, [vocabulary].
  func step(_ tokens: [Int64], position: Int64) throws -> [Float]

  func close()
}
