// The command line.

import BenchCore
import Foundation

let usage = """
  usage: sharp-bench EXPORT… [--out DIRECTORY] [--caches DIRECTORY] [--repetitions N] [--threads N] [--prefill N] \
  [--decode N] [--depths N,N|none] [--threads-sweep N,performance] [--sustain SECONDS] [--cool-down SECONDS]
  """

/// `out`: where results-swift-linux-<name>.json and status.json go; into each export's own directory if nil.
/// `caches`: where packed weights are kept.
struct Options {
  var exports: [URL] = []
  var out: URL?
  var caches = FileManager.default.temporaryDirectory.appendingPathComponent("sharp-bench")
  var plan = Plan()

  init(_ arguments: [String]) throws {
    var rest = arguments[...]
    var numbers: [String: String] = [:]
    while let argument = rest.popFirst() {
      if !argument.hasPrefix("--") {
        exports.append(URL(fileURLWithPath: argument, isDirectory: true))
        continue
      }
      guard let value = rest.popFirst() else { throw Failure("\(argument): needs a value; \(usage)") }
      switch argument {
      case "--out": out = URL(fileURLWithPath: value, isDirectory: true)
      case "--caches": caches = URL(fileURLWithPath: value, isDirectory: true)
      default: numbers[argument.dropFirst(2).replacingOccurrences(of: "-", with: "_")] = value
      }
    }
    plan = try Plan.parse(numbers)
    if exports.isEmpty { throw Failure("no export is named; \(usage)") }
  }

  func resultsFile(_ export: URL) -> URL {
    out?.appendingPathComponent("results-swift-linux-\(export.lastPathComponent).json")
      ?? export.appendingPathComponent("results-swift-linux.json")
  }
}
