// A failure that its reader can act on: one sentence that names the file and the way out.

import Foundation

public struct Failure: Error, Equatable, CustomStringConvertible, LocalizedError {
  public let message: String

  public init(_ message: String) { self.message = message }

  public var description: String { message }
  public var errorDescription: String? { message }
}

/// The line that people read of an error.
public func told(_ error: any Error) -> String {
  (error as? Failure)?.message ?? error.localizedDescription
}
