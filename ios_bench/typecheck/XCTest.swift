// XCTest of Apple's systems, as far as the app's tests use it.

import Foundation

public protocol XCTMetric {}

public final class XCTClockMetric: NSObject, XCTMetric {}

public final class XCTMemoryMetric: NSObject, XCTMetric {}

public final class XCTAttachment: NSObject {
  public enum Lifetime: Int, Sendable {
    case keepAlways
  }

  public init(string: String) {}
  public var name: String?
  public var lifetime: Lifetime {
    get { fatalError() }
    set {}
  }
}

open class XCTestCase: NSObject {
  open func setUpWithError() throws {}
  public func measure(metrics: [any XCTMetric], block: () -> Void) {}
  public func add(_ attachment: XCTAttachment) {}
}

public struct XCTSkip: Error {
  public init(_ message: @autoclosure () -> String? = nil, file: StaticString = #filePath, line: UInt = #line) {}
}

public func XCTFail(_ message: String = "", file: StaticString = #filePath, line: UInt = #line) {}

public func XCTAssertNil(
  _ expression: @autoclosure () throws -> Any?, _ message: @autoclosure () -> String = "",
  file: StaticString = #filePath, line: UInt = #line
) {}
