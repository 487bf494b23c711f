// ExecuTorch from its Swift package, with XNNPACK's weight cache on and its packed weights on disk.
//
// The program is mapped, not read: `LoadMode.file` costs a second copy of it in memory. The options go to the program's
// load and to the method's: each delegate is made by the latter.

import BenchCore
import ExecuTorch
import Foundation

struct ExecuTorchEngine: Engine {
  /// The version of the package that the project pins; the runtime does not report it.
  static let version = "1.5.0"

  let harness = "ios"
  let runtime = "executorch \(Self.version)"
  let weightCache = true
  let packedCache = true
  let cpuClass = DeviceProbe.cpuClass()
  let limits: [String] = []

  func load(_ pte: URL, threads: Int, packedCache: URL?) throws -> any LoadedModel {
    try Self.use(threads: threads)
    var options = [BackendOption("weight_cache_enabled", true)]
    if let packedCache { options.append(BackendOption("packed_cache_path", packedCache.path)) }
    do {
      let map = try BackendOptionsMap(options: ["XnnpackBackend": options])
      let module = Module(filePath: pte.path, loadMode: .mmap)
      try module.load(options: map)
      try module.load("forward", options: map)
      return ExecuTorchModel(module, pte)
    } catch {
      throw Failure("\(pte.path): cannot be loaded by \(runtime): \(told(error)); free memory, or export it again")
    }
  }

  func memory() -> Memory { ProcessMemory.now() }

  /// Set the threads of every model in the process.
  static func use(threads: Int) throws {
    if sharp_set_threads(Int32(threads)) != Int32(threads) {
      throw Failure("\(threads) threads: the runtime does not take so many; choose fewer")
    }
  }
}

private final class ExecuTorchModel: LoadedModel {
  private var module: Module?
  private let pte: URL

  init(_ module: Module, _ pte: URL) { (self.module, self.pte) = (module, pte) }

  func step(_ tokens: [Int64], position: Int64) throws -> [Float] {
    guard let module else { throw Failure("\(pte.path): was closed before this step") }
    return try autoreleasepool {
      do {
        let input = Tensor<Int64>(tokens, shape: [1, tokens.count])
        let start = Tensor<Int64>([position], shape: [1])
        let logits: Tensor<Float> = try module.forward(input, start)
        return logits.withUnsafeBytes { Array($0.suffix(logits.shape.last ?? 0)) }
      } catch {
        throw Failure(
          "\(pte.path): a step of \(tokens.count) tokens at \(position) fails: \(told(error)); export it again")
      }
    }
  }

  func close() { module = nil }
}
