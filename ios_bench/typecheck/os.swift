// os, as far as the app uses it.

public func os_proc_available_memory() -> Int { 0 }
