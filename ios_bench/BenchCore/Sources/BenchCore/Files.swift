// Files that are written whole or not at all, and what a file's bytes are known by.

import Foundation

private let block = 1 << 20

/// Write a text file under a temporary name, then rename it; its directory is created.
public func replaceText(_ file: URL, _ text: String) throws {
  let directory = file.deletingLastPathComponent()
  let partial = directory.appendingPathComponent("\(file.lastPathComponent).partial-\(UUID().uuidString)")
  defer { try? FileManager.default.removeItem(at: partial) }
  do {
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    try Data(text.utf8).write(to: partial)
  } catch {
    throw Failure("\(file.path): cannot be written: \(error.localizedDescription); make room, or choose another place")
  }
  try renameOver(partial, file)
}

/// Put a file in another one's place, in one step.
public func renameOver(_ source: URL, _ target: URL) throws {
  if rename(source.path, target.path) != 0 {
    throw Failure("\(target.path): cannot be written: \(String(cString: strerror(errno))); choose another place")
  }
}

/// SHA-256 of a file's bytes, in hexadecimal; read in blocks, so that it may be larger than memory.
public func sha256Of(_ file: URL) throws -> String {
  guard let stream = fopen(file.path, "rb") else {
    throw Failure("\(file.path): cannot be read: \(String(cString: strerror(errno)))")
  }
  defer { fclose(stream) }
  var digest = SHA256()
  var bytes = [UInt8](repeating: 0, count: block)
  while true {
    let count = fread(&bytes, 1, block, stream)
    if count == 0 { break }
    digest.update(bytes[..<count])
  }
  if ferror(stream) != 0 { throw Failure("\(file.path): cannot be read to its end; copy it again") }
  return digest.hex()
}

/// A file's size; nil where there is no file.
public func fileBytes(_ file: URL) -> Int64? {
  let attributes = try? FileManager.default.attributesOfItem(atPath: file.path)
  guard let attributes, attributes[.type] as? FileAttributeType == .typeRegular else { return nil }
  return (attributes[.size] as? NSNumber)?.int64Value
}
