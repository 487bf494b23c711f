// What this phone is, how warm it is, and what is free on it.

import BenchCore
import Foundation
import UIKit
import os

enum DeviceProbe {
  /// `battery`: as `battery()` told before the run, since only the main thread may ask.
  static func device(battery: String?) -> Device {
    let process = ProcessInfo.processInfo
    let version = process.operatingSystemVersion
    return Device(
      kind: "ios", model: machine(), os: "iOS \(version.majorVersion).\(version.minorVersion).\(version.patchVersion)",
      cpu: text("machdep.cpu.brand_string") ?? "arm64", cores: process.processorCount,
      memoryBytes: Int64(process.physicalMemory), thermal: thermal(process.thermalState), battery: battery)
  }

  /// "87%, charging"; nil in a simulator.
  @MainActor
  static func battery() -> String? {
    let device = UIDevice.current
    device.isBatteryMonitoringEnabled = true
    let percent = "\(Int((100 * device.batteryLevel).rounded()))%"
    switch device.batteryState {
    case .charging: return "\(percent), charging"
    case .full: return "\(percent), full"
    case .unplugged: return "\(percent), unplugged"
    default: return nil
    }
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
