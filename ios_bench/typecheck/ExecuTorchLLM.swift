// The text runner of ExecuTorch 1.5, by its public headers, as far as the app uses it.

import Foundation

public final class Config: NSObject {
  public init(_ block: (Config) -> Void) {}
  public var isEchoEnabled: Bool = false
  public var maximumNewTokens: Int = 0
  public var temperature: Double = 0
}

open class TextRunner: NSObject {
  public init(modelPath: String, tokenizerPath: String) {}
  public func load() throws {}
  public func generate(_ prompt: String, _ config: Config, tokenCallback: ((String) -> Void)?) throws {}
  public func stop() {}
  public func reset() {}
}
