// A run that is asked for by the environment of the launch; nobody touches the screen.
//
//     SHARP_EXPORT_DIRS=shared,unshared    names in Documents/exports or among the app's own models
//     SHARP_OUT=results                    a directory in Documents, where results and status.json go
//     SHARP_REPETITIONS  SHARP_THREADS  SHARP_PREFILL  SHARP_DECODE     numbers; the plan's own where left out

import BenchCore
import Foundation

struct HandsFree: Equatable {
  var exports: [URL]
  var out: URL
  var plan = Plan()
  /// What is wrong with the request; then nothing is run.
  var refusal: String?

  /// The request in an environment; nil where there is none.
  init?(_ environment: [String: String], documents: URL, models: URL) {
    guard let names = environment["SHARP_EXPORT_DIRS"] else { return nil }
    exports = names.split(separator: ",").map { HandsFree.directory(String($0), documents, models) }
    out = documents.appendingPathComponent(environment["SHARP_OUT"] ?? "results")
    for (name, part) in HandsFree.numbers {
      guard let value = environment[name] else { continue }
      if let number = Int(value), number > 0 {
        plan[keyPath: part] = number
      } else {
        refusal = "\(name)=\(value): must be a number above zero"
      }
    }
  }

  private static let numbers: KeyValuePairs<String, WritableKeyPath<Plan, Int>> = [
    "SHARP_REPETITIONS": \.repetitions, "SHARP_THREADS": \.threads, "SHARP_PREFILL": \.prefill,
    "SHARP_DECODE": \.decode,
  ]

  /// A path below Documents or Documents/exports, or the name of a model of the app's own.
  private static func directory(_ name: String, _ documents: URL, _ models: URL) -> URL {
    let exports = documents.appendingPathComponent("exports")
    let candidates = [exports, documents, models].map { $0.appendingPathComponent(name, isDirectory: true) }
    return candidates.first { FileManager.default.fileExists(atPath: $0.path) } ?? candidates[0]
  }
}
