// A run that the system ends in the middle leaves a results file that says so.
//
//     begin ───────► the file says: the system ended the app during <stage>        while a launch runs
//     interrupted ─► the file says: the app went to the background                 while it still runs
//     pause ───────► the file says: the app was ended before it was measured       while other exports' launches run
//     finish ──────► the file has the results
//
// So on the next start nothing has to be guessed: the file is there, with what had been measured until then. The run's
// thread writes it, and the main thread does when the app goes to the background: hence the lock.

import Foundation

public final class Journal: @unchecked Sendable {
  public let path: URL
  private let lock = NSLock()
  private var underWay: (measured: Results, stage: String)?

  public init(_ path: URL) { self.path = path }

  public func begin(_ measured: Results, _ stage: String) throws {
    let error =
      "the system ended the app during \(stage) of \(measured.export.name), most likely for lack of memory; "
      + "free some or share more layers"
    try write(measured.failed(error), underWay: (measured, stage))
  }

  public func pause(_ measured: Results) throws {
    let error = "the app was ended before \(measured.export.name) was measured to its end; run it again"
    try write(measured.failed(error), underWay: nil)
  }

  public func finish(_ results: Results) throws {
    try write(results, underWay: nil)
  }

  /// The app goes to the background, and the system may end it there. Without effect while no launch is under way.
  public func interrupted() {
    lock.withLock {
      guard let (measured, stage) = underWay else { return }
      // A file that cannot be written says already that the app was ended during the launch.
      try? measured.failed(Failure(background: stage, of: measured.export.name).message).write(path)
    }
  }

  private func write(_ results: Results, underWay: (Results, String)?) throws {
    try lock.withLock {
      self.underWay = underWay
      try results.write(path)
    }
  }
}

extension Failure {
  /// A launch that the app left the screen in: the system slows or suspends it there.
  init(background stage: String, of name: String) {
    self.init(
      "the app went to the background during \(stage) of \(name), which is not counted; "
        + "keep the app in front and run it again")
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
