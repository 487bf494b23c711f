// A run that is asked for by the environment of the launch; nobody touches the screen.
//
//     SHARP_EXPORT_DIRS=shared,unshared    names in Documents/exports or among the exports in the app
//     SHARP_OUT=results                    a directory in Documents, where results and status.json go
//     SHARP_REPETITIONS=3  SHARP_THREADS_SWEEP=1,2,performance …    the plan's options, by their names in capitals

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
    do { plan = try Plan.parse(HandsFree.options(environment)) } catch { refusal = told(error) }
  }

  /// The plan's options in an environment. SHARP_EXPORT is the tests' own.
  static func options(_ environment: [String: String]) -> [String: String] {
    let others = ["SHARP_EXPORT_DIRS", "SHARP_OUT", "SHARP_EXPORT"]
    let given = environment.filter { $0.key.hasPrefix("SHARP_") && !others.contains($0.key) }
    return Dictionary(uniqueKeysWithValues: given.map { ($0.key.dropFirst(6).lowercased(), $0.value) })
  }

  /// A path below Documents or Documents/exports, or the name of an export in the app.
  private static func directory(_ name: String, _ documents: URL, _ models: URL) -> URL {
    let exports = documents.appendingPathComponent("exports")
    let candidates = [exports, documents, models].map { $0.appendingPathComponent(name, isDirectory: true) }
    return candidates.first { FileManager.default.fileExists(atPath: $0.path) } ?? candidates[0]
  }
}
