// Where things lie on the phone.
//
//     Documents/exports/<name>/     exports that were pushed or copied by Files     (make bench-ios, or the Files app)
//     SharpBench.app/Models/<name>/ exports that were built into the app            (make ios MODEL=…)
//     Documents/results/            results-ios-<name>.json and status.json
//     Library/Caches/packed/        packed weights; the system may delete them when it needs room

import BenchCore
import Foundation

enum Places {
  static let documents = URL.documentsDirectory
  static let exports = documents.appendingPathComponent("exports")
  static let models = Bundle.main.bundleURL.appendingPathComponent("Models")
  static let results = documents.appendingPathComponent("results")
  static let caches = URL.cachesDirectory.appendingPathComponent("packed")

  /// Made at the first start, so that they are there to be copied into.
  static func make() throws {
    for directory in [exports, results] {
      try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    }
  }

  /// All exports on the phone, those in Documents first.
  static func find() -> FoundExports {
    var found = ExportFolder.find(exports)
    let bundled = ExportFolder.find(models)
    let names = Set(found.exports.map(\.name))
    found.exports += bundled.exports.filter { !names.contains($0.name) }
    found.broken += bundled.broken
    return found
  }

  static func resultsFile(_ export: URL, in directory: URL = results) -> URL {
    directory.appendingPathComponent("results-ios-\(export.lastPathComponent).json")
  }
}
