// What the device was like during a run: how warm, how fast its cores, how full its battery.
//
//     start ── a sample ── 2 s ── a sample ── 2 s ── … ── stop ── a sample
//
// A thread takes the samples, so that there are some while a launch runs. Only Python judges them.

import Foundation

/// The state of the device. `at`: seconds since the start of the run. `clocksHz`: the current clock of each CPU; empty
/// where the system does not report it. `chargeUah`: the battery's charge in microampere-hours. `batteryLevel`: 0 to 1.
public struct Condition: Codable, Equatable, Sendable {
  public var at: Double
  public var thermal: String?
  public var clocksHz: [Int64]
  public var chargeUah: Int64?
  public var batteryLevel: Double?
  public var charging: Bool?
  public var batteryCelsius: Double?

  public init(
    at: Double, thermal: String? = nil, clocksHz: [Int64] = [], chargeUah: Int64? = nil, batteryLevel: Double? = nil,
    charging: Bool? = nil, batteryCelsius: Double? = nil
  ) {
    (self.at, self.thermal, self.clocksHz, self.chargeUah) = (at, thermal, clocksHz, chargeUah)
    (self.batteryLevel, self.charging, self.batteryCelsius) = (batteryLevel, charging, batteryCelsius)
  }

  enum CodingKeys: String, CodingKey {
    case at, thermal, charging
    case clocksHz = "clocks_hz"
    case chargeUah = "charge_uah"
    case batteryLevel = "battery_level"
    case batteryCelsius = "battery_celsius"
  }
}

/// `probe`: the device's state, asked with the seconds since the start of the run. `elapsed`: these seconds.
public final class Sampler: @unchecked Sendable {
  private let probe: @Sendable (Double) -> Condition
  private let seconds: Double
  private let elapsed: @Sendable () -> Double
  private let gate = NSCondition()
  private var samples: [Condition] = []
  private var running = false
  private var ended = true

  public init(
    probe: @escaping @Sendable (Double) -> Condition, every seconds: Double, elapsed: @escaping @Sendable () -> Double
  ) {
    (self.probe, self.seconds, self.elapsed) = (probe, seconds, elapsed)
  }

  /// Take a sample now, then one after the other until `stop`.
  public func start() {
    sample()
    gate.withLock { (running, ended) = (true, false) }
    let thread = Thread { [self] in repeatedly() }
    thread.qualityOfService = .utility
    thread.start()
  }

  /// The samples so far.
  public func taken() -> [Condition] { gate.withLock { samples } }

  /// Take the last sample.
  public func stop() {
    gate.withLock {
      running = false
      gate.broadcast()
      while !ended { gate.wait() }
    }
    sample()
  }

  private func repeatedly() {
    var next = Date() + seconds
    while true {
      let stopped = gate.withLock {
        while running && Date() < next { _ = gate.wait(until: next) }
        return !running
      }
      if stopped { break }
      sample()
      next = Date() + seconds
    }
    gate.withLock {
      ended = true
      gate.broadcast()
    }
  }

  private func sample() {
    let condition = probe(elapsed())
    gate.withLock { samples.append(condition) }
  }
}
