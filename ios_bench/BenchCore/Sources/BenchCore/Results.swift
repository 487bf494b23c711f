// The results of a benchmark of one export in one place; the schema is sharp_mobile/bench/results.py, version 2.
//
//     Results
//       device     where: kind, model, OS, CPU, cores, memory, thermal state and battery
//       export     what: name, plan, hash and bytes of the .pte
//       settings   how: harness, runtime, threads, caches
//       load       seconds of load + init, on the first launch and on later ones
//       firstToken time to first token: load, init and a prompt
//       forward    seconds of a forward pass of one token
//       prefill, decode   seconds a run, and tokens in it
//       tokenLatency      seconds of each decoded token
//       decodeAtDepth     decode with a filled KV cache
//       threadsSweep      prefill and decode by number of threads
//       sustained         decode over minutes
//       memory     resident bytes after load, init and one forward pass, and what the system charges the process with
//       conditions thermal state, clocks and battery, sampled during the run
//       likeliest  the tokens predicted after the manifest's prompt, with their logits
//
// Only measurements: Python judges them. A missing measurement is absent, never zero. A failed benchmark says why and
// keeps the measurements made before the failure.

import Foundation

public let schemaVersion = 2

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

/// Seconds of several runs of `tokens` decoded tokens, with `depth` tokens in the KV cache before them.
public struct DepthSamples: Codable, Equatable, Sendable {
  public var depth: Int
  public var seconds: [Double]
  public var tokens: Int

  public init(depth: Int, seconds: [Double], tokens: Int) {
    (self.depth, self.seconds, self.tokens) = (depth, seconds, tokens)
  }
}

/// Prefill and decode with a number of threads.
public struct ThreadSamples: Codable, Equatable, Sendable {
  public var threads: Int
  public var prefill, decode: TokenSamples

  public init(threads: Int, prefill: TokenSamples, decode: TokenSamples) {
    (self.threads, self.prefill, self.decode) = (threads, prefill, decode)
  }
}

/// A part of a sustained run: `tokens` decoded in `seconds`. `at`: its end, in seconds since the start of the run.
public struct Window: Codable, Equatable, Sendable {
  public var at: Double
  public var tokens: Int
  public var seconds: Double

  public init(at: Double, tokens: Int, seconds: Double) {
    (self.at, self.tokens, self.seconds) = (at, tokens, seconds)
  }
}

/// Where it ran. `performanceCores`: cores of the fast kinds. `thermal`, `battery`: in the system's words, at the start
/// of the run.
public struct Device: Codable, Equatable, Sendable {
  public var kind, model, os, cpu: String
  public var cores: Int
  public var performanceCores: Int?
  public var memoryBytes: Int64?
  public var thermal, battery: String?

  public init(
    kind: String, model: String, os: String, cpu: String, cores: Int, performanceCores: Int? = nil,
    memoryBytes: Int64? = nil, thermal: String? = nil, battery: String? = nil
  ) {
    (self.kind, self.model, self.os, self.cpu, self.cores) = (kind, model, os, cpu, cores)
    (self.performanceCores, self.memoryBytes, self.thermal, self.battery) = (
      performanceCores, memoryBytes, thermal, battery
    )
  }

  enum CodingKeys: String, CodingKey {
    case kind, model, os, cpu, cores, thermal, battery
    case performanceCores = "performance_cores"
    case memoryBytes = "memory_bytes"
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
/// `fixedPerformance`: a mode of Android, which only the driver on the computer sets.
public struct Settings: Codable, Equatable, Sendable {
  public var harness, runtime: String
  public var threads: Int
  public var weightCache, packedCache: Bool
  public var memoryLimit: Int64?
  public var fixedPerformance: Bool?

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
    case fixedPerformance = "fixed_performance"
  }
}

/// Seconds of load and init: without packed weights on disk, with those of an earlier launch, with none of their pages.
public struct Load: Codable, Equatable, Sendable {
  public var first, later, cold: Samples?

  public init(first: Samples? = nil, later: Samples? = nil, cold: Samples? = nil) {
    (self.first, self.later, self.cold) = (first, later, cold)
  }
}

/// Seconds from the start of load to the first token after a prompt: without packed weights on disk, and with them.
public struct FirstToken: Codable, Equatable, Sendable {
  public var first, later: TokenSamples?

  public init(first: TokenSamples? = nil, later: TokenSamples? = nil) { (self.first, self.later) = (first, later) }
}

/// Resident bytes: anonymous memory, pages of files, and the most of both together. `footprint`: what the system charges
/// the process with, `phys_footprint` on iOS and PSS elsewhere; `footprintPeak`: the most of it.
public struct Memory: Codable, Equatable, Sendable {
  public var anonymous, file, peak: Int64
  public var footprint, footprintPeak: Int64?

  public init(
    anonymous: Int64, file: Int64, peak: Int64, footprint: Int64? = nil, footprintPeak: Int64? = nil
  ) {
    (self.anonymous, self.file, self.peak) = (anonymous, file, peak)
    (self.footprint, self.footprintPeak) = (footprint, footprintPeak)
  }

  enum CodingKeys: String, CodingKey {
    case anonymous, file, peak, footprint
    case footprintPeak = "footprint_peak"
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
  public var firstToken: FirstToken?
  public var forward: Samples?
  public var prefill, decode: TokenSamples?
  public var tokenLatency: Samples?
  public var decodeAtDepth: [DepthSamples]?
  public var threadsSweep: [ThreadSamples]?
  public var sustained: [Window]?
  public var memory, idleMemory: Memory?
  public var conditions: [Condition]?
  public var likeliest: [Likely]?
  public var tokens, expectedTokens: [Int64]?
  public var warnings: [String]?

  public init(created: String, device: Device, export: ExportIdentity, settings: Settings) {
    (self.created, self.device, self.export, self.settings) = (created, device, export, settings)
  }

  enum CodingKeys: String, CodingKey {
    case created, status, error, device, export, settings, load, forward, prefill, decode, sustained, memory
    case conditions, likeliest, tokens, warnings
    case schemaVersion = "schema_version"
    case firstToken = "first_token"
    case tokenLatency = "token_latency"
    case decodeAtDepth = "decode_at_depth"
    case threadsSweep = "threads_sweep"
    case idleMemory = "idle_memory"
    case expectedTokens = "expected_tokens"
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
    let samples: [Samples?] = [load?.first, load?.later, load?.cold, forward, tokenLatency]
    let runs: [TokenSamples?] = [prefill, decode, firstToken?.first, firstToken?.later]
    var all = samples.compactMap { $0?.seconds }
    all += runs.compactMap { $0?.seconds }
    for sweep in threadsSweep ?? [] { all += [sweep.prefill.seconds, sweep.decode.seconds] }
    for samples in decodeAtDepth ?? [] { all.append(samples.seconds) }
    for window in sustained ?? [] { all.append([window.seconds]) }
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
