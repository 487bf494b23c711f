// Owns the one run of the process, so that a screen may come and go while it goes on.
//
//     start ──► running: line, line, … ──► ended: results or an error
//
// A screen that is made anew watches again: it gets the present state, and every later one.

import Foundation

public enum RunState: Equatable, Sendable {
  case idle
  case running(String)
  case ended([Results], error: String?)
}

public final class RunHolder: @unchecked Sendable {
  // Recursive, because a listener may ask for the next run. It is held while listeners are called, so that none gets an
  // older state after a newer one.
  private let lock = NSRecursiveLock()
  private var state = RunState.idle
  private var listeners: [Int: (RunState) -> Void] = [:]
  private var watched = 0
  private var session: Session?
  private let stopping = Stopping()

  public init() {}

  /// Start a run on a thread for it; false, and nothing happens, while one is under way. `session` is made with where
  /// its lines go and with what stops it.
  public func start(
    _ directories: [URL],
    session: (_ say: @escaping @Sendable (String) -> Void, _ stop: @escaping @Sendable () -> Stop?) -> Session
  ) -> Bool {
    lock.withLock {
      if self.session != nil { return false }
      let stopping = stopping
      stopping.reason = nil
      let made = session({ [weak self] in self?.become(.running($0)) }, { stopping.reason })
      self.session = made
      become(.running("opening"))
      let thread = Thread { [self] in end(Result { try made.run(directories) }) }
      // The system runs the highest class on its fast cores.
      thread.qualityOfService = .userInteractive
      thread.stackSize = 8 << 20
      thread.start()
      return true
    }
  }

  /// End the run after the launch that is under way.
  public func stop() {
    lock.withLock { if session != nil && stopping.reason == nil { stopping.reason = .user } }
  }

  /// The app leaves the screen: the launch that is under way does not count, and its file says so at once.
  public func background() {
    let cut = lock.withLock {
      if session != nil { stopping.reason = .background }
      return session
    }
    cut?.interrupted()
  }

  /// Have a listener get the present state at once, and every later one on the run's thread; a number for `unwatch`.
  public func watch(_ listener: @escaping @Sendable (RunState) -> Void) -> Int {
    lock.withLock {
      watched += 1
      listeners[watched] = listener
      listener(state)
      return watched
    }
  }

  public func unwatch(_ number: Int) {
    lock.withLock { listeners[number] = nil }
  }

  private func become(_ state: RunState) {
    lock.withLock {
      self.state = state
      for (_, listener) in listeners.sorted(by: { $0.key < $1.key }) { listener(state) }
    }
  }

  private func end(_ outcome: Result<[Results], any Error>) {
    lock.withLock {
      session = nil
      switch outcome {
      case .success(let results): become(.ended(results, error: nil))
      case .failure(let failure): become(.ended([], error: told(failure)))
      }
    }
  }
}

/// What stops the run; the run asks from its thread.
private final class Stopping: @unchecked Sendable {
  private let lock = NSLock()
  private var value: Stop?

  var reason: Stop? {
    get { lock.withLock { value } }
    set { lock.withLock { value = newValue } }
  }
}
