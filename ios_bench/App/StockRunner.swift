// ExecuTorch's own text runner with an export and its tokenizer: what other apps use.

import BenchCore
import ExecuTorchLLM
import Foundation

/// The runner is used by the thread of a chat; only `stop`, which sets a flag, comes from another.
final class StockRunner: TextGenerator, @unchecked Sendable {
  private let export: ExportFolder
  private let runner: TextRunner

  /// Load the model, so that the time to first token is without it.
  init(_ export: ExportFolder) throws {
    let candidates = ["tokenizer.json", "tokenizer.model"].map { export.directory.appendingPathComponent($0) }
    guard let tokenizer = candidates.first(where: { fileBytes($0) != nil }) else {
      throw Failure("\(export.name): has no tokenizer; copy its tokenizer.json next to its model.pte")
    }
    try export.checkRuntime("executorch \(ExecuTorchEngine.version)")
    try ExecuTorchEngine.use(threads: DeviceProbe.performanceCores() ?? 1)
    self.export = export
    runner = TextRunner(modelPath: export.pte.path, tokenizerPath: tokenizer.path)
    do {
      try runner.load()
    } catch {
      throw Failure("\(export.pte.path): cannot be loaded: \(told(error)); free memory, or export it again")
    }
  }

  func generate(_ prompt: String, _ limit: Int, _ piece: @escaping (String) -> Void) throws {
    let config = Config {
      $0.maximumNewTokens = limit
      $0.temperature = 0
      $0.isEchoEnabled = false
    }
    runner.reset()
    do {
      try runner.generate(prompt, config, tokenCallback: piece)
    } catch {
      throw Failure("\(export.name): the answer fails: \(told(error)); write a shorter prompt")
    }
  }

  func stop() { runner.stop() }
}
