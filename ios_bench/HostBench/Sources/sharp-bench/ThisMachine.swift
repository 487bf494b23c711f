// The computer that it runs on, as sharp_mobile/bench/host.py sees it.

import BenchCore
import Foundation
import Glibc

enum ThisMachine {
  static func device() -> Device {
    let product = text("/sys/class/dmi/id/product_name").trimmingCharacters(in: .whitespacesAndNewlines)
    let system = uname()
    return Device(
      kind: "host", model: product.isEmpty ? system.machine : product, os: "\(system.name) \(system.release)",
      cpu: cpuFields()["model name"] ?? system.machine, cores: ProcessInfo.processInfo.processorCount,
      performanceCores: performanceCores(), memoryBytes: Int64(ProcessInfo.processInfo.physicalMemory))
  }

  /// The clock of each CPU; a computer has no thermal state, and its battery does not matter.
  static func condition(_ at: Double) -> Condition {
    var clocks = kilohertz("scaling_cur_freq").map { $0 * 1000 }
    if clocks.isEmpty {
      let lines = text("/proc/cpuinfo").split(separator: "\n").filter { $0.hasPrefix("cpu MHz") }
      clocks = lines.compactMap { Double($0.drop { $0 != ":" }.dropFirst().trimmingCharacters(in: .whitespaces)) }
        .map { Int64($0 * 1e6) }
    }
    return Condition(at: at, clocksHz: clocks)
  }

  /// What two CPUs have in common if XNNPACK packs alike for them: model and instruction sets.
  static func cpuClass() -> String {
    let named = ["model name", "flags", "CPU implementer", "CPU part", "Features"]
    return cpuFields().filter { named.contains($0.key) }.sorted { $0.key < $1.key }
      .map { "\($0.key): \($0.value)" }.joined(separator: "; ")
  }

  static func room(at directory: URL) -> Room {
    let attributes = try? FileManager.default.attributesOfFileSystem(forPath: directory.path)
    return Room(freeBytes: (attributes?[.systemFreeSize] as? NSNumber)?.int64Value ?? 0)
  }

  /// CPUs whose highest clock is above the slowest one's; all where all are alike.
  private static func performanceCores() -> Int? {
    let highest = kilohertz("cpuinfo_max_freq")
    let fast = highest.filter { $0 > highest.min()! }
    return highest.isEmpty ? nil : fast.isEmpty ? highest.count : fast.count
  }

  /// What cpufreq says of each CPU, in the CPUs' order; empty where it says nothing of one.
  private static func kilohertz(_ name: String) -> [Int64] {
    let cpus = (0..<ProcessInfo.processInfo.processorCount).map { "/sys/devices/system/cpu/cpu\($0)/cpufreq/\(name)" }
    let values = cpus.compactMap { Int64(text($0).trimmingCharacters(in: .whitespacesAndNewlines)) }
    return values.count == cpus.count ? values : []
  }

  /// Of the first core in /proc/cpuinfo.
  private static func cpuFields() -> [String: String] {
    let lines = text("/proc/cpuinfo").split(separator: "\n", omittingEmptySubsequences: false).prefix { !$0.isEmpty }
    let pairs = lines.map { $0.split(separator: ":", maxSplits: 1).map { $0.trimmingCharacters(in: .whitespaces) } }
    return Dictionary(pairs.filter { $0.count == 2 }.map { ($0[0], $0[1]) }) { first, _ in first }
  }

  private static func uname() -> (name: String, release: String, machine: String) {
    var system = utsname()
    Glibc.uname(&system)
    func field<Characters>(_ characters: Characters) -> String {
      withUnsafeBytes(of: characters) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
    return (field(system.sysname), field(system.release), field(system.machine))
  }

  private static func text(_ path: String) -> String {
    (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
  }
}
