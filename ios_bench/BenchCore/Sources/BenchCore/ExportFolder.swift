// An export as a benchmark sees it: its .pte, checked by its manifest, and what it should say.
//
//     exports/shared/   manifest.json   name, hash and sizes of the .pte, plan, expected greedy tokens, packed weights
//                       model.pte       the program
//                       packed/         weights that lie there as XNNPACK packs them, if it brings any

import Foundation

private let manifestJson = "manifest.json"
private let modelPte = "model.pte"
private let formatVersion = 1

/// Weights that an export brings packed already, and what they are good for.
public struct PackedWeights: Codable, Equatable, Sendable {
  public var file, profile, cpuClass, runtime, pteSha256, sha256: String
  public var bytes: Int64

  enum CodingKeys: String, CodingKey {
    case file, profile, runtime, sha256, bytes
    case cpuClass = "cpu_class"
    case pteSha256 = "pte_sha256"
  }
}

/// Exports below a directory, by name; and those that are broken, with the reason.
public struct FoundExports: Sendable {
  public var exports: [ExportFolder] = []
  public var broken: [(name: String, reason: String)] = []

  public init() {}
}

/// `length`: positions in its KV cache. `longestStep`: tokens that one forward takes. `prompt`: token ids, and
/// `expectedTokens` what greedy decoding gave after them when it was exported. `stop`: tokens that end a text.
public struct ExportFolder: Sendable {
  public let directory: URL
  public let identity: ExportIdentity
  public let prompt, expectedTokens, stop: [Int64]
  public let length, longestStep: Int
  public let packed: [PackedWeights]
  let executorch: String?

  public var name: String { directory.lastPathComponent }
  public var pte: URL { directory.appendingPathComponent(modelPte) }

  /// Open an export; its .pte must have the bytes that the manifest says. The hash is checked by `checkHash`.
  public static func open(_ directory: URL) throws -> ExportFolder {
    let manifest = try readManifest(directory)
    let export = ExportFolder(
      directory: directory,
      identity: manifest.identity,
      prompt: manifest.expected.prompt_tokens,
      expectedTokens: manifest.expected.tokens,
      stop: manifest.metadata.get_eos_ids ?? [],
      length: manifest.metadata.get_max_context_len,
      longestStep: min(
        manifest.metadata.get_max_context_len - 1,
        manifest.metadata.get_max_seq_len ?? manifest.metadata.get_max_context_len),
      packed: manifest.packed ?? [],
      executorch: manifest.versions?["executorch"]
    )
    guard let bytes = fileBytes(export.pte) else {
      throw Failure("\(export.pte.path): is missing; copy the export again")
    }
    if bytes != manifest.sizes.file {
      throw Failure("\(export.pte.path): has \(bytes) bytes, its manifest says \(manifest.sizes.file); copy it again")
    }
    if export.prompt.isEmpty || export.prompt.count >= export.length || export.longestStep < 1 {
      throw Failure("\(directory.path): its prompt of \(export.prompt.count) tokens does not fit; export it again")
    }
    return export
  }

  /// All exports below a directory; none where there is no directory.
  public static func find(_ directory: URL) -> FoundExports {
    let entries = (try? FileManager.default.contentsOfDirectory(at: directory, includingPropertiesForKeys: nil)) ?? []
    var found = FoundExports()
    for entry in entries.sorted(by: { $0.lastPathComponent < $1.lastPathComponent }) {
      if (try? entry.resourceValues(forKeys: [.isDirectoryKey]))?.isDirectory != true { continue }
      do {
        found.exports.append(try open(entry))
      } catch {
        found.broken.append((entry.lastPathComponent, told(error)))
      }
    }
    return found
  }

  /// The identity of a directory that cannot be opened as an export.
  public static func unreadable(_ directory: URL) -> ExportIdentity {
    let bytes = fileBytes(directory.appendingPathComponent(modelPte)) ?? 0
    return ExportIdentity(
      name: directory.lastPathComponent, plan: "unknown", sha256: "", fileBytes: bytes, tensorBytes: 0, unsharedBytes: 0
    )
  }

  /// Compare the .pte with the SHA-256 in its manifest.
  public func checkHash() throws {
    let found = try sha256Of(pte)
    if found != identity.sha256 {
      throw Failure(
        "\(pte.path): is not the file of its manifest: its SHA-256 is \(found.prefix(16))…, "
          + "not \(identity.sha256.prefix(16))…; copy the export again")
    }
  }

  /// Check that the runtime, such as "executorch 1.5.1", is of the release that the program was made for.
  public func checkRuntime(_ runtime: String) throws {
    let needed = executorch.map { "executorch \($0)" } ?? "an unknown runtime"
    if needed.release != runtime.release {
      throw Failure("\(name): was exported for \(needed), this app has \(runtime); export it again with \(runtime)")
    }
  }
}

extension String {
  /// A version's major and minor number, "1.5" of "1.5.1": patches of ExecuTorch read the same programs and packed weights.
  var release: String { split(separator: ".", omittingEmptySubsequences: false).prefix(2).joined(separator: ".") }
}

/// What of manifest.json a benchmark needs, by the names there.
private struct Manifest: Decodable {
  struct Sizes: Decodable { var file, tensors, shared, recovery: Int64 }
  struct Metadata: Decodable {
    var get_max_context_len: Int
    var get_max_seq_len: Int?
    var get_eos_ids: [Int64]?
  }
  struct Expected: Decodable { var prompt_tokens, tokens: [Int64] }

  var format_version: Int
  var name, sha256, plan: String
  var sizes: Sizes
  var metadata: Metadata
  var divergence: Double?
  var expected: Expected
  var versions: [String: String]?
  var packed: [PackedWeights]?

  var identity: ExportIdentity {
    ExportIdentity(
      name: name, plan: plan, sha256: sha256, fileBytes: sizes.file, tensorBytes: sizes.tensors,
      unsharedBytes: sizes.file + sizes.shared - sizes.recovery, divergence: divergence)
  }
}

private func readManifest(_ directory: URL) throws -> Manifest {
  let file = directory.appendingPathComponent(manifestJson)
  guard let data = try? Data(contentsOf: file) else {
    throw Failure("\(directory.path): is not an export's directory: it has no \(manifestJson); name one that has")
  }
  let manifest: Manifest
  do {
    manifest = try JSONDecoder().decode(Manifest.self, from: data)
  } catch {
    throw Failure("\(file.path): \(problem(error)); export the model again")
  }
  if manifest.format_version != formatVersion {
    throw Failure(
      "\(file.path): is of format \(manifest.format_version), this app reads \(formatVersion); export the model again")
  }
  return manifest
}
