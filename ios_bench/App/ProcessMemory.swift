// The memory of this process, as Darwin counts it.
//
//     anonymous = internal + compressed    its anonymous pages, those that the system has compressed too
//     file      = external                 resident pages of files: the .pte, packed weights, code
//     peak                                 the most that was resident since the process began
//     footprint = phys_footprint           what the system ends an app for; clean pages of files are not in it
//     footprintPeak                        the most of that since the process began

import BenchCore
// Its mach_task_self_ is a variable, though nobody sets it: Swift 6 takes it only from an import that it does not check.
@preconcurrency import Darwin

enum ProcessMemory {
  /// Zeros where the system gives no answer.
  static func now() -> Memory {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
    let status = withUnsafeMutablePointer(to: &info) {
      $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
        task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
      }
    }
    if status != KERN_SUCCESS { return Memory(anonymous: 0, file: 0, peak: 0) }
    return Memory(
      anonymous: Int64(info.internal) + Int64(info.compressed), file: Int64(info.external),
      peak: Int64(info.resident_size_peak), footprint: Int64(info.phys_footprint),
      footprintPeak: info.ledger_phys_footprint_peak)
  }
}
