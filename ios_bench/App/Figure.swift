// The table's rows: a figure of each results, with its ratio to the first one's.

import BenchCore
import Foundation

/// `value`: of results, in the unit; nil where it was not measured.
struct Figure {
  let name: String
  let digits: Int
  let value: (Results) -> Double?

  static let all = [
    Figure(name: ".pte, MB", digits: 1) { Double($0.export.fileBytes) / 1e6 },
    Figure(name: "first load, ms", digits: 1) { milliseconds($0.load?.first) },
    Figure(name: "later load, ms", digits: 1) { milliseconds($0.load?.later) },
    Figure(name: "forward, ms", digits: 2) { milliseconds($0.forward) },
    Figure(name: "prefill, tokens/s", digits: 1) { $0.prefill.map(Statistics.tokensPerSecond) },
    Figure(name: "decode, tokens/s", digits: 1) { $0.decode.map(Statistics.tokensPerSecond) },
    Figure(name: "own memory, MB", digits: 1) { $0.memory.map { Double($0.anonymous) / 1e6 } },
    Figure(name: "memory of files, MB", digits: 1) { $0.memory.map { Double($0.file) / 1e6 } },
    Figure(name: "peak, MB", digits: 1) { $0.memory.map { Double($0.peak) / 1e6 } },
  ]

  /// "12.3 ×0.92"; a dash where it was not measured, no ratio where the first has none or is itself.
  func cell(_ results: Results, beside first: Results) -> String {
    guard let value = value(results) else { return "–" }
    let text = String(format: "%.\(digits)f", value)
    guard results != first, let base = self.value(first), base > 0 else { return text }
    return text + String(format: " ×%.2f", value / base)
  }

  private static func milliseconds(_ samples: Samples?) -> Double? {
    samples.map { 1e3 * Statistics.median($0.seconds) }
  }
}
