// What the checked files use of Apple's systems and of the app's other files, without anything behind it.

import BenchCore
import Foundation

func autoreleasepool<Result>(_ work: () throws -> Result) rethrows -> Result { try work() }

/// Threads.h
func sharp_set_threads(_ threads: Int32) -> Int32 { threads }

enum DeviceProbe {
  static func cpuClass() -> String { "" }
}

enum ProcessMemory {
  static func now() -> Memory { Memory(anonymous: 0, file: 0, peak: 0) }
}

extension URL {
  static var documentsDirectory: URL { URL(fileURLWithPath: "/") }
  static var cachesDirectory: URL { URL(fileURLWithPath: "/") }
}
