// ExecuTorch 1.5's Swift interface, by its public headers, as far as the app uses it.

import Foundation

public protocol Scalar {}
extension Int64: Scalar {}
extension Float: Scalar {}

public protocol ValueConvertible {}
public protocol ValueSequenceConstructible {}

public final class Tensor<T: Scalar>: ValueConvertible, ValueSequenceConstructible {
  public init(_ scalars: [T], shape: [Int] = [], strides: [Int] = [], dimensionOrder: [Int] = []) {}
  public var shape: [Int] { [] }
  public func withUnsafeBytes<R>(_ body: (UnsafeBufferPointer<T>) throws -> R) rethrows -> R { fatalError() }
}

public enum ModuleLoadMode: Int {
  case mmap
}

public final class BackendOption: NSObject {
  public init(_ key: String, _ value: Bool) {}
  public init(_ key: String, _ value: String) {}
}

public final class BackendOptionsMap: NSObject {
  public init(options: [String: [BackendOption]]) throws {}
}

open class Module: NSObject {
  public init(filePath: String, loadMode: ModuleLoadMode) {}
  public func load(options: BackendOptionsMap) throws {}
  public func load(_ method: String, options: BackendOptionsMap) throws {}
  public func forward<Output: ValueSequenceConstructible>(_ inputs: ValueConvertible...) throws -> Output {
    fatalError()
  }
}
