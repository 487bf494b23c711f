// The battery: only the main thread may ask for it, so the last answer is kept here for the run's threads.

import Foundation
import UIKit

final class Battery: @unchecked Sendable {
  static let shared = Battery()

  /// `level`: 0 to 1; nil in a simulator. `state`: in words.
  struct Reading: Sendable {
    var level: Double?
    var charging: Bool?
    var state: String?
  }

  private let lock = NSLock()
  private var last = Reading()

  var reading: Reading { lock.withLock { last } }

  /// Read it now and at every change; once, from the main thread.
  @MainActor
  func follow() {
    UIDevice.current.isBatteryMonitoringEnabled = true
    read()
    for change in [UIDevice.batteryLevelDidChangeNotification, UIDevice.batteryStateDidChangeNotification] {
      _ = NotificationCenter.default.addObserver(forName: change, object: nil, queue: .main) { _ in
        MainActor.assumeIsolated { Battery.shared.read() }
      }
    }
  }

  @MainActor
  private func read() {
    let device = UIDevice.current
    var reading = Reading()
    switch device.batteryState {
    case .charging: (reading.charging, reading.state) = (true, "charging")
    case .full: (reading.charging, reading.state) = (true, "full")
    case .unplugged: (reading.charging, reading.state) = (false, "unplugged")
    default: break
    }
    if reading.state != nil { reading.level = Double(device.batteryLevel) }
    lock.withLock { last = reading }
  }
}
