// What this phone is, how warm it is, and what is free on it. From any thread.

import BenchCore
import Darwin
import Foundation
import os

enum DeviceProbe {
  static func device() -> Device {
    let process = ProcessInfo.processInfo
    let version = process.operatingSystemVersion
    return Device(
      kind: "ios", model: machine(), os: "iOS \(version.majorVersion).\(version.minorVersion).\(version.patchVersion)",
      cpu: text("machdep.cpu.brand_string") ?? "arm64", cores: process.processorCount,
      performanceCores: performanceCores(), memoryBytes: Int64(process.physicalMemory),
      thermal: thermal(process.thermalState), battery: battery())
  }

  /// Its state at some seconds since the start of a run. iOS reports no clocks.
  static func condition(_ at: Double) -> Condition {
    let battery = Battery.shared.reading
    return Condition(
      at: at, thermal: thermal(ProcessInfo.processInfo.thermalState), batteryLevel: battery.level,
      charging: battery.charging)
  }

  /// Cores of the fast kind; nil where the system does not say.
  static func performanceCores() -> Int? {
    number("hw.perflevel0.physicalcpu").map(Int.init)
  }

  static func room() -> Room {
    let values = try? Places.caches.deletingLastPathComponent()
      .resourceValues(forKeys: [.volumeAvailableCapacityForImportantUsageKey])
    let available = os_proc_available_memory()
    return Room(
      freeBytes: values?.volumeAvailableCapacityForImportantUsage ?? 0,
      availableMemory: available > 0 ? Int64(available) : nil)
  }

  /// What two CPUs have in common if XNNPACK packs alike for them, as sharp_mobile/bench/arm64/profiles.py names it.
  static func cpuClass() -> String {
    let features = [
      ("FP16", "asimdhp"), ("DotProd", "asimddp"), ("I8MM", "i8mm"), ("SME", "sme"), ("SME2", "sme2"),
    ]
    return (["arm64"] + features.filter { number("hw.optional.arm.FEAT_\($0.0)") == 1 }.map(\.1)).joined(separator: " ")
  }

  /// "87%, charging"; nil in a simulator.
  private static func battery() -> String? {
    let battery = Battery.shared.reading
    guard let level = battery.level, let state = battery.state else { return nil }
    return "\(Int((100 * level).rounded()))%, \(state)"
  }

  /// Such as "iPhone16,1"; in a simulator the machine that it simulates.
  private static func machine() -> String {
    if let simulated = ProcessInfo.processInfo.environment["SIMULATOR_MODEL_IDENTIFIER"] {
      return "\(simulated), simulated"
    }
    var system = utsname()
    uname(&system)
    return withUnsafeBytes(of: system.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  private static func thermal(_ state: ProcessInfo.ThermalState) -> String {
    switch state {
    case .nominal: return "nominal"
    case .fair: return "fair"
    case .serious: return "serious"
    case .critical: return "critical"
    @unknown default: return "unknown"
    }
  }

  private static func text(_ name: String) -> String? {
    var size = 0
    guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return nil }
    var bytes = [UInt8](repeating: 0, count: size)
    guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return nil }
    return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }

  private static func number(_ name: String) -> Int32? {
    var value: Int32 = 0
    var size = MemoryLayout<Int32>.size
    return sysctlbyname(name, &value, &size, nil, 0) == 0 ? value : nil
  }
}
