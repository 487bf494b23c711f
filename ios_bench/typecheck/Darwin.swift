// Darwin, as far as the app uses it: sysctl, and what a process is charged with.

public typealias kern_return_t = Int32
public typealias integer_t = Int32
public typealias natural_t = UInt32
public typealias mach_msg_type_number_t = UInt32
public typealias task_flavor_t = UInt32
public typealias mach_port_t = UInt32

public let KERN_SUCCESS: kern_return_t = 0
public let TASK_VM_INFO: Int32 = 22

/// A variable of C, which Swift 6 does not take from a checked import.
public var mach_task_self_: mach_port_t = 0

public struct task_vm_info_data_t {
  public var `internal`: UInt64 = 0
  public var external: UInt64 = 0
  public var compressed: UInt64 = 0
  public var resident_size_peak: UInt64 = 0
  public var phys_footprint: UInt64 = 0
  public var ledger_phys_footprint_peak: Int64 = 0

  public init() {}
}

public func task_info(
  _ task: mach_port_t, _ flavor: task_flavor_t, _ info: UnsafeMutablePointer<integer_t>!,
  _ count: UnsafeMutablePointer<mach_msg_type_number_t>!
) -> kern_return_t { 1 }

public func sysctlbyname(
  _ name: UnsafePointer<CChar>!, _ old: UnsafeMutableRawPointer!, _ oldSize: UnsafeMutablePointer<Int>!,
  _ new: UnsafeMutableRawPointer!, _ newSize: Int
) -> Int32 { -1 }
