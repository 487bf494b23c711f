// XNNPACK's packed weights on disk between launches, believed only while they are what a launch of ours left.
//
//     <key>.packed   what XNNPACK wrote: packed weights, and an index of them
//     <key>.json     its seal: the key, the file's size and its SHA-256
//
//     key = SHA-256(the .pte's SHA-256, the runtime's version, the CPU's class)
//
// XNNPACK looks at the place of packed weights and a seed, not at their bytes: a file with a flipped bit answers
// wrongly, without an error. So before every launch the file is hashed and compared with its seal; one that is damaged,
// stale, half made or another model's is deleted, and the next launch makes a new one. XNNPACK refuses entries of
// another CPU's kernels, packs anew and appends: a file that a launch has changed is thrown away too, and so is that
// launch. The same as sharp_mobile/bench/packed_cache.py.

import Foundation

private struct Seal: Codable, Equatable {
  var key: String
  var bytes: Int64
  var sha256: String
}

public struct PackedCache: Sendable {
  public let key: String
  public let path: URL
  private let sealPath: URL

  public init(directory: URL, key: String) {
    self.key = key
    // Shortened, because XNNPACK takes paths of 255 bytes at most; the seal holds the whole key.
    path = directory.appendingPathComponent("\(key.prefix(16)).packed")
    sealPath = directory.appendingPathComponent("\(key.prefix(16)).json")
  }

  /// The name under which packed weights of a program, a runtime and a CPU are kept.
  public static func key(pteSha256: String, runtime: String, cpu: String) -> String {
    var digest = SHA256()
    digest.update([pteSha256, runtime, cpu].joined(separator: "\0").utf8)
    return digest.hex()
  }

  /// Have the next launch pack anew.
  public func delete() {
    try? FileManager.default.removeItem(at: sealPath)
    try? FileManager.default.removeItem(at: path)
  }

  /// Whether the file is what its seal says; deletes it if not.
  public func believed() -> Bool {
    if let found = try? measured(), found == sealed() { return true }
    delete()
    return false
  }

  /// Vouch for what a launch has just written.
  public func seal() throws {
    guard fileBytes(path) != nil else {
      throw Failure("\(path.path): XNNPACK wrote no packed weights there; is the disk full?")
    }
    try replaceText(sealPath, String(decoding: JSONEncoder().encode(measured()), as: UTF8.self) + "\n")
  }

  /// Make the file anew by a launch that is given its path; a launch that fails leaves none.
  public func make<Launched>(_ launch: (URL) throws -> Launched) throws -> Launched {
    do {
      try FileManager.default.createDirectory(at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
      let launched = try launch(path)
      try seal()
      return launched
    } catch {
      delete()
      throw error
    }
  }

  /// Run a launch with the file as it was sealed, having `pack` pack first where that is needed.
  public func usedBy<Launched>(_ launch: (URL) throws -> Launched, pack: (URL) throws -> Void) throws -> Launched {
    for _ in 0..<2 {
      if !believed() { try make(pack) }
      let before = changes()
      let launched = try launch(path)
      if changes() == before { return launched }
      delete()
    }
    throw Failure("\(path.path): XNNPACK refuses what it has packed itself; run without packed weights on disk")
  }

  /// Take the packed weights that an export brings, if they are for this program, runtime and CPU, and whole.
  public func bring(_ packed: PackedWeights, _ export: ExportFolder, _ runtime: String, _ cpuClass: String) throws
    -> Bool
  {
    let source = export.directory.appendingPathComponent(packed.file)
    let wanted = (runtime.release, cpuClass, export.identity.sha256)
    if (packed.runtime.release, packed.cpuClass, packed.pteSha256) != wanted {
      return false
    }
    guard fileBytes(source) == packed.bytes, try sha256Of(source) == packed.sha256 else {
      throw Failure("\(source.path): is damaged or gone, and was not used; copy the export again")
    }
    _ = try make { path in
      do {
        try FileManager.default.copyItem(at: source, to: path)
      } catch {
        throw Failure("\(path.path): cannot be written: \(error.localizedDescription); make room for it")
      }
    }
    return true
  }

  private func sealed() -> Seal? {
    (try? Data(contentsOf: sealPath)).flatMap { try? JSONDecoder().decode(Seal.self, from: $0) }
  }

  private func measured() throws -> Seal {
    Seal(key: key, bytes: fileBytes(path) ?? -1, sha256: try sha256Of(path))
  }

  private func changes() -> [Double] {
    let attributes = try? FileManager.default.attributesOfItem(atPath: path.path)
    let time = (attributes?[.modificationDate] as? Date)?.timeIntervalSince1970 ?? -1
    return [Double(fileBytes(path) ?? -1), time]
  }
}
