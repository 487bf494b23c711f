// A run that the system ends in the middle leaves a results file that says so.
//
//     begin ──► the file says: the system ended the app during <stage>          while a launch runs
//     pause ──► the file says: the app was ended before it was measured         while other exports' launches run
//     finish ─► the file has the results
//
// So on the next start nothing has to be guessed: the file is there, with what had been measured until then.

import Foundation

public struct Journal: Sendable {
  public let path: URL

  public init(_ path: URL) { self.path = path }

  public func begin(_ measured: Results, _ stage: String) throws {
    try measured.failed(
      "the system ended the app during \(stage) of \(measured.export.name), most likely for lack of memory; "
        + "free some or share more layers"
    ).write(path)
  }

  public func pause(_ measured: Results) throws {
    try measured.failed("the app was ended before \(measured.export.name) was measured to its end; run it again")
      .write(path)
  }

  public func finish(_ results: Results) throws {
    try results.write(path)
  }
}

/// What is free on the device: bytes on disk, and of memory that the app may take, where the system tells.
public struct Room: Equatable, Sendable {
  public var freeBytes: Int64
  public var availableMemory: Int64?

  public init(freeBytes: Int64, availableMemory: Int64? = nil) {
    (self.freeBytes, self.availableMemory) = (freeBytes, availableMemory)
  }
}

public enum Requirements {
  /// Packed weights take about as many bytes as the .pte: on disk where the engine keeps them there, else in memory.
  public static func check(_ room: Room, packedOnDisk: Bool, _ export: ExportFolder) throws {
    let needed = export.identity.fileBytes
    if packedOnDisk && room.freeBytes < needed {
      throw Failure(
        "\(export.name): needs about \(needed) bytes of disk for packed weights, \(room.freeBytes) are free; "
          + "delete something")
    }
    if !packedOnDisk, let available = room.availableMemory, available < needed {
      throw Failure(
        "\(export.name): needs about \(needed) bytes of memory for packed weights, the system gives \(available); "
          + "close other apps or share more layers")
    }
  }
}
