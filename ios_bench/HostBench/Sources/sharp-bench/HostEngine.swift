// ExecuTorch by its C interface (host_bench/engine.h), with XNNPACK's weight cache on.

import BenchCore
import CSharpEngine
import Foundation

struct HostEngine: Engine {
  let harness = "swift-linux"
  let runtime = String(cString: sharp_engine_runtime())
  let weightCache = true
  let packedCache = true
  let cpuClass = ThisMachine.cpuClass()
  let limits: [String] = []

  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel {
    try told { error, size in
      sharp_engine_open(pte.path, Int32(threads), 1, packedCache?.path, error, size).map(HostModel.init)
    }
  }

  func memory() -> Memory {
    var memory = Memory(anonymous: 0, file: 0, peak: 0)
    var footprint: Int64 = 0
    sharp_engine_memory(&memory.anonymous, &memory.file, &memory.peak, &footprint)
    memory.footprint = footprint > 0 ? footprint : nil
    return memory
  }
}

private struct HostModel: LoadedModel {
  let engine: OpaquePointer

  func step(_ tokens: [Int64], position: Int64) throws -> [Float] {
    try told { error, size in
      let done = sharp_engine_step(engine, tokens, Int64(tokens.count), position, error, size) == 0
      let logits = UnsafeBufferPointer(start: sharp_engine_logits(engine), count: Int(sharp_engine_vocabulary(engine)))
      return done ? Array(logits) : nil
    }
  }

  func close() { sharp_engine_close(engine) }
}

/// What a call gives; where it gives nothing, the line that it left is thrown.
private func told<Given>(_ call: (UnsafeMutablePointer<CChar>, Int) -> Given?) throws -> Given {
  try withUnsafeTemporaryAllocation(of: CChar.self, capacity: 2000) { line in
    line[0] = 0
    if let given = call(line.baseAddress!, line.count) { return given }
    throw Failure(String(cString: line.baseAddress!))
  }
}
