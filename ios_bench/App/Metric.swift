// The table's rows: what was measured, with its ratio to the first export's.

import BenchCore
import Foundation

/// `value`: of results, in the unit; nil where it was not measured. `picture`: behind the value.
struct Metric: Sendable {
  let name: String
  var digits = 1
  var picture: @Sendable (Results) -> String = { _ in "" }
  let value: @Sendable (Results) -> Double?

  /// The rows for a table of results, without those that have no value in any of them.
  static func rows(_ results: [Results]) -> [Metric] {
    let all = loads + latencies(results) + depths(results) + threads(results) + [sustained] + memory
    return all.filter { row in results.contains { row.value($0) != nil } }
  }

  /// "12.3 ×0.92"; a dash where it was not measured, no ratio where the first has none or is itself.
  func cell(_ results: Results, first: Results) -> String {
    guard let value = value(results) else { return "–" }
    var text = String(format: "%.\(digits)f", value)
    if results != first, let base = self.value(first), base > 0 { text += String(format: " ×%.2f", value / base) }
    let picture = picture(results)
    return picture.isEmpty ? text : "\(text) \(picture)"
  }

  private static let loads = [
    Metric(name: ".pte, MB") { Double($0.export.fileBytes) / 1e6 },
    Metric(name: "first load, ms") { milliseconds($0.load?.first?.seconds) },
    Metric(name: "later load, ms") { milliseconds($0.load?.later?.seconds) },
    Metric(name: "first token, first launch, ms") { milliseconds($0.firstToken?.first?.seconds) },
    Metric(name: "first token, later launch, ms") { milliseconds($0.firstToken?.later?.seconds) },
    Metric(name: "forward, ms", digits: 2) { milliseconds($0.forward?.seconds) },
  ]

  /// Prefill and decode are named by their tokens, as in llama-bench; exports of shorter caches have rows of their sizes.
  private static func latencies(_ results: [Results]) -> [Metric] {
    let prefills = numbers(results) { [$0.prefill?.tokens].compactMap { $0 } }.map { count in
      Metric(name: "prefill (pp\(count)), tokens/s") { speed($0.prefill, count) }
    }
    let decodes = numbers(results) { [$0.decode?.tokens].compactMap { $0 } }.map { count in
      Metric(name: "decode (tg\(count)), tokens/s") { speed($0.decode, count) }
    }
    let percentiles = [50.0, 90.0].map { percent in
      Metric(name: "decode p\(Int(percent)), ms", digits: 2) { found in
        found.tokenLatency.map { 1e3 * Statistics.percentile($0.seconds, percent) }
      }
    }
    return prefills + decodes + percentiles
  }

  private static func depths(_ results: [Results]) -> [Metric] {
    numbers(results) { ($0.decodeAtDepth ?? []).map(\.depth) }.map { depth in
      Metric(name: "decode at depth \(depth), tokens/s") { found in
        let there = (found.decodeAtDepth ?? []).first { $0.depth == depth }
        return there.map { Double($0.tokens) / Statistics.median($0.seconds) }
      }
    }
  }

  private static func threads(_ results: [Results]) -> [Metric] {
    numbers(results) { ($0.threadsSweep ?? []).map(\.threads) }.map { count in
      Metric(name: "threads: \(count), decode tokens/s") { found in
        (found.threadsSweep ?? []).first { $0.threads == count }.map { Statistics.tokensPerSecond($0.decode) }
      }
    }
  }

  private static let sustained = Metric(
    name: "sustained, tokens/s",
    picture: { found in
      Statistics.sparkline((found.sustained ?? []).map { Double($0.tokens) / $0.seconds }, width: 20)
    }
  ) { found in
    guard let windows = found.sustained, !windows.isEmpty else { return nil }
    return Double(windows.map(\.tokens).reduce(0, +)) / windows.map(\.seconds).reduce(0, +)
  }

  private static let memory = [
    Metric(name: "anonymous, MB") { megabytes($0.memory?.anonymous) },
    Metric(name: "files, MB") { megabytes($0.memory?.file) },
    Metric(name: "peak, MB") { megabytes($0.memory?.peak) },
    Metric(name: "footprint, MB") { megabytes($0.memory?.footprint) },
    Metric(name: "footprint peak, MB") { megabytes($0.memory?.footprintPeak) },
    Metric(name: "idle footprint, MB") { megabytes($0.idleMemory?.footprint) },
  ]

  /// The numbers that any of the results has, in ascending order.
  private static func numbers(_ results: [Results], _ of: (Results) -> [Int]) -> [Int] {
    Set(results.flatMap(of)).sorted()
  }

  private static func speed(_ samples: TokenSamples?, _ tokens: Int) -> Double? {
    samples.flatMap { $0.tokens == tokens ? Statistics.tokensPerSecond($0) : nil }
  }

  private static func milliseconds(_ seconds: [Double]?) -> Double? {
    seconds.map { 1e3 * Statistics.median($0) }
  }

  private static func megabytes(_ bytes: Int64?) -> Double? {
    bytes.map { Double($0) / 1e6 }
  }
}
