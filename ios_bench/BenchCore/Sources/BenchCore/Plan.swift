// What to measure.

/// `repetitions`: launches of each kind. `warmups`, `forwards`: of one token, in a launch. `prefill`, `decode`: tokens.
/// `depths`: tokens in the KV cache before more decoding. `threadsSweep`: numbers of threads, 0 for as many as there are
/// performance cores. `sustain`: seconds of decoding at the end. `coolDown`: seconds of waiting before an export's turn.
public struct Plan: Equatable, Sendable {
  public var threads, repetitions, warmups, forwards, prefill, decode: Int
  public var depths, threadsSweep: [Int]
  public var sustain, coolDown: Int

  public init(
    threads: Int = 1, repetitions: Int = 5, warmups: Int = 1, forwards: Int = 5, prefill: Int = 512, decode: Int = 128,
    depths: [Int] = [512], threadsSweep: [Int] = [], sustain: Int = 0, coolDown: Int = 0
  ) {
    (self.threads, self.repetitions, self.warmups) = (threads, repetitions, warmups)
    (self.forwards, self.prefill, self.decode) = (forwards, prefill, decode)
    (self.depths, self.threadsSweep) = (depths, threadsSweep)
    (self.sustain, self.coolDown) = (sustain, coolDown)
  }

  /// No more tokens than the export's cache has room for; one step takes one less than the cache.
  public func fitted(_ export: ExportFolder) -> Plan {
    var plan = self
    plan.prefill = min(prefill, export.length - 1)
    plan.decode = min(decode, export.length - export.prompt.count)
    plan.depths = depths.filter { $0 + plan.decode <= export.length }
    return plan
  }

  /// The plan that texts by name ask for, such as `["threads_sweep": "1,2,performance"]`; the rest is as by default.
  public static func parse(_ options: [String: String]) throws -> Plan {
    var plan = Plan()
    for (name, value) in options.sorted(by: { $0.key < $1.key }) {
      switch name {
      case "threads": plan.threads = try number(name, value, from: 1)
      case "repetitions": plan.repetitions = try number(name, value, from: 1)
      case "prefill": plan.prefill = try number(name, value, from: 1)
      case "decode": plan.decode = try number(name, value, from: 1)
      case "sustain": plan.sustain = try number(name, value, from: 0)
      case "cool_down": plan.coolDown = try number(name, value, from: 0)
      case "depths": plan.depths = value == "none" ? [] : try numbers(name, value, words: [:], "or none")
      case "threads_sweep": plan.threadsSweep = try numbers(name, value, words: ["performance": 0], "or performance")
      default:
        throw Failure(
          "\(name)=\(value): is no option; the options are threads, repetitions, prefill, decode, depths, threads_sweep, "
            + "sustain, cool_down")
      }
    }
    return plan
  }

  /// The numbers of threads to sweep on a device, in ascending order, each once.
  public func threadCounts(_ device: Device) -> [Int] {
    let counts = threadsSweep.map { $0 == 0 ? device.performanceCores ?? device.cores : $0 }
    return Set(counts.filter { $0 <= device.cores }).sorted()
  }

  private static func number(_ name: String, _ value: String, from least: Int) throws -> Int {
    guard let number = Int(value), number >= least else {
      throw Failure("\(name)=\(value): write a whole number from \(least) on")
    }
    return number
  }

  /// Numbers from 1 on with commas between; `words` stand for numbers.
  private static func numbers(_ name: String, _ value: String, words: [String: Int], _ or: String) throws -> [Int] {
    try value.split(separator: ",", omittingEmptySubsequences: false).map { part in
      if let meant = words[String(part)] { return meant }
      guard let number = Int(part), number >= 1 else {
        let what = words.isEmpty ? "with commas between, \(or)" : "\(or), with commas between"
        throw Failure("\(name)=\(value): write whole numbers from 1 on\(words.isEmpty ? " " : ", ")\(what)")
      }
      return number
    }
  }
}
