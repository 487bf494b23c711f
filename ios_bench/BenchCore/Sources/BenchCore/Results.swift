// The results of a benchmark of one export in one place; the schema is sharp_mobile/bench/results.py, version 1.
//
//     Results
//       device     where: kind, model, OS, CPU, cores, memory, thermal state and battery
//       export     what: name, plan, hash and bytes of the .pte
//       settings   how: harness, runtime, threads, caches
//       load       seconds of load + init, on the first launch and on later ones
//       forward    seconds of a forward pass of one token
//       prefill, decode   seconds a run, and tokens in it
//       memory     resident bytes after load, init and one forward pass
//       likeliest  the tokens predicted after the manifest's prompt, with their logits
//
// What was not measured is absent, never zero. A benchmark that failed says why and keeps what it had measured.

import Foundation

public let schemaVersion = 1

/// Seconds of several runs of the same thing, in their order.
public struct Samples: Codable, Equatable, Sendable {
  public var seconds: [Double]

  public init(seconds: [Double]) { self.seconds = seconds }
}

/// Seconds of several runs of `tokens` tokens each.
public struct TokenSamples: Codable, Equatable, Sendable {
  public var seconds: [Double]
  public var tokens: Int

  public init(seconds: [Double], tokens: Int) {
    self.seconds = seconds
    self.tokens = tokens
  }
}

/// Where it ran. `thermal`: the system's own word for how warm the device is.
public struct Device: Codable, Equatable, Sendable {
  public var kind, model, os, cpu: String
  public var cores: Int
  public var memoryBytes: Int64?
  public var thermal, battery: String?

  public init(
    kind: String, model: String, os: String, cpu: String, cores: Int, memoryBytes: Int64? = nil,
    thermal: String? = nil, battery: String? = nil
  ) {
    (self.kind, self.model, self.os, self.cpu, self.cores) = (kind, model, os, cpu, cores)
    (self.memoryBytes, self.thermal, self.battery) = (memoryBytes, thermal, battery)
  }

  enum CodingKeys: String, CodingKey {
    case kind, model, os, cpu, cores, thermal, battery
    case memoryBytes = "memory_bytes"
  }

  /// Whether the system slows the device down because it is hot: iOS's names and Android's.
  public var throttled: Bool {
    ["serious", "severe", "critical", "emergency", "shutdown"].contains(thermal ?? "")
  }
}

/// What ran, from the export's manifest.
public struct ExportIdentity: Codable, Equatable, Sendable {
  public var name, plan, sha256: String
  public var fileBytes, tensorBytes, unsharedBytes: Int64
  public var divergence: Double?

  public init(
    name: String, plan: String, sha256: String, fileBytes: Int64, tensorBytes: Int64, unsharedBytes: Int64,
    divergence: Double? = nil
  ) {
    (self.name, self.plan, self.sha256, self.divergence) = (name, plan, sha256, divergence)
    (self.fileBytes, self.tensorBytes, self.unsharedBytes) = (fileBytes, tensorBytes, unsharedBytes)
  }

  enum CodingKeys: String, CodingKey {
    case name, plan, sha256, divergence
    case fileBytes = "file_bytes"
    case tensorBytes = "tensor_bytes"
    case unsharedBytes = "unshared_bytes"
  }
}

/// How it ran. `harness`: the program that measured. `weightCache`: XNNPACK packs a shared weight once.
public struct Settings: Codable, Equatable, Sendable {
  public var harness, runtime: String
  public var threads: Int
  public var weightCache, packedCache: Bool
  public var memoryLimit: Int64?

  public init(
    harness: String, runtime: String, threads: Int, weightCache: Bool, packedCache: Bool, memoryLimit: Int64? = nil
  ) {
    (self.harness, self.runtime, self.threads) = (harness, runtime, threads)
    (self.weightCache, self.packedCache, self.memoryLimit) = (weightCache, packedCache, memoryLimit)
  }

  enum CodingKeys: String, CodingKey {
    case harness, runtime, threads
    case weightCache = "weight_cache"
    case packedCache = "packed_cache"
    case memoryLimit = "memory_limit"
  }
}

/// Seconds of load and init: without packed weights on disk, with those of an earlier launch, with none of their pages.
public struct Load: Codable, Equatable, Sendable {
  public var first, later, cold: Samples?

  public init(first: Samples? = nil, later: Samples? = nil, cold: Samples? = nil) {
    (self.first, self.later, self.cold) = (first, later, cold)
  }
}

/// Resident bytes: the process's own, pages of files, and the most that both together were.
public struct Memory: Codable, Equatable, Sendable {
  public var anonymous, file, peak: Int64

  public init(anonymous: Int64, file: Int64, peak: Int64) {
    (self.anonymous, self.file, self.peak) = (anonymous, file, peak)
  }
}

/// A token and its logit; in JSON a pair.
public struct Likely: Equatable, Sendable {
  public var token: Int64
  public var logit: Double

  public init(token: Int64, logit: Double) { (self.token, self.logit) = (token, logit) }
}

public struct Results: Codable, Equatable, Sendable {
  public var schemaVersion = BenchCore.schemaVersion
  public var created: String
  public var status = "ok"
  public var error: String?
  public var device: Device
  public var export: ExportIdentity
  public var settings: Settings
  public var load: Load?
  public var forward: Samples?
  public var prefill, decode: TokenSamples?
  public var memory: Memory?
  public var likeliest: [Likely]?
  public var tokens: [Int64]?
  public var warnings: [String]?

  public init(created: String, device: Device, export: ExportIdentity, settings: Settings) {
    (self.created, self.device, self.export, self.settings) = (created, device, export, settings)
  }

  enum CodingKeys: String, CodingKey {
    case created, status, error, device, export, settings, load, forward, prefill, decode, memory, likeliest, tokens
    case warnings
    case schemaVersion = "schema_version"
  }

  /// The same, with why it failed.
  public func failed(_ error: String) -> Results {
    var results = self
    (results.status, results.error) = ("failed", error)
    return results
  }

  /// Its file's text. Throws where a number is none, such as an infinite logit.
  public func toJson() throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    do {
      return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    } catch {
      throw Failure("\(export.name): has results that no JSON can hold: \(error.localizedDescription); export it again")
    }
  }

  /// Results from their file's text; what is not of this schema is refused.
  public static func parse(_ json: String) throws -> Results {
    let data = Data(json.utf8)
    guard let content = try? JSONSerialization.jsonObject(with: data) as? [String: Any] else {
      throw Failure("is not a whole results file; run the benchmark again")
    }
    guard let version = content["schema_version"] as? Int, version == BenchCore.schemaVersion else {
      let of = content["schema_version"].map { "is of schema version \($0)" } ?? "has no schema version"
      throw Failure("\(of), this program reads version \(BenchCore.schemaVersion); run the benchmark again")
    }
    let results: Results
    do {
      results = try JSONDecoder().decode(Results.self, from: data)
    } catch {
      throw Failure("\(problem(error)); run the benchmark again")
    }
    if let unknown = lost(content, in: try JSONSerialization.jsonObject(with: Data(results.toJson().utf8))) {
      throw Failure("\(unknown): is not in schema version \(BenchCore.schemaVersion); run the benchmark again")
    }
    try results.check()
    return results
  }

  /// Write the file, whole or not at all.
  public func write(_ file: URL) throws {
    try replaceText(file, toJson())
  }

  /// What types cannot say: times are above zero, and a benchmark that failed, and no other, has an error.
  private func check() throws {
    let all =
      [load?.first, load?.later, load?.cold, forward].compactMap { $0?.seconds }
      + [prefill, decode].compactMap { $0?.seconds }
    if all.contains(where: { $0.isEmpty || !$0.allSatisfy { $0 > 0 && $0.isFinite } }) {
      throw Failure("seconds: must be above zero, and at least one; run the benchmark again")
    }
    if (status == "failed") != (error?.isEmpty == false) || !["ok", "failed"].contains(status) {
      throw Failure("status: a benchmark that failed, and no other, has an error; run the benchmark again")
    }
  }
}

/// The time as `Results.created` has it: UTC, ISO 8601.
public func now() -> String {
  let formatter = ISO8601DateFormatter()
  formatter.formatOptions = [.withInternetDateTime]
  return formatter.string(from: Date())
}
