// From a thread of a run or a chat to the screen.

import Foundation

/// Do something on the main thread, in the order of the calls.
func onMain(_ work: @escaping @MainActor @Sendable () -> Void) {
  DispatchQueue.main.async { MainActor.assumeIsolated { work() } }
}
