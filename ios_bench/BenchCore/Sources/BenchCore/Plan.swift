// What to measure.

/// `repetitions`: launches of each kind. `warmups`, `forwards`: of one token, in a launch. `prefill`, `decode`: tokens.
public struct Plan: Equatable, Sendable {
  public var threads, repetitions, warmups, forwards, prefill, decode: Int

  public init(
    threads: Int = 1, repetitions: Int = 5, warmups: Int = 1, forwards: Int = 5, prefill: Int = 128, decode: Int = 64
  ) {
    (self.threads, self.repetitions, self.warmups) = (threads, repetitions, warmups)
    (self.forwards, self.prefill, self.decode) = (forwards, prefill, decode)
  }

  /// No more tokens than the export's cache has room for; one step takes one less than the cache.
  public func fitted(_ export: ExportFolder) -> Plan {
    var plan = self
    plan.prefill = min(prefill, export.length - 1)
    plan.decode = min(decode, export.length - export.prompt.count)
    return plan
  }
}
