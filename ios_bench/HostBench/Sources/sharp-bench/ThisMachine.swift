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
      memoryBytes: Int64(ProcessInfo.processInfo.physicalMemory))
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
