// What Apple's Foundation has and Linux's lacks, of what the app uses. The type check imports it into every file.

import Foundation

public func autoreleasepool<Result>(invoking body: () throws -> Result) rethrows -> Result { try body() }

extension ProcessInfo {
  public enum ThermalState: Int, Sendable {
    case nominal
    case fair
    case serious
    case critical
  }

  public var thermalState: ThermalState { fatalError() }
}

extension URL {
  public static var documentsDirectory: URL { URL(fileURLWithPath: "/") }
  public static var cachesDirectory: URL { URL(fileURLWithPath: "/") }
}

extension URLResourceKey {
  public static var volumeAvailableCapacityForImportantUsageKey: URLResourceKey { URLResourceKey(rawValue: "") }
}

extension URLResourceValues {
  public var volumeAvailableCapacityForImportantUsage: Int64? { nil }
}
