// UIKit, as far as the app uses it.

import Foundation

@MainActor
open class UIApplication: NSObject {
  public class var shared: UIApplication { fatalError() }
  public var isIdleTimerDisabled: Bool = false
}

@MainActor
open class UIDevice: NSObject {
  public enum BatteryState: Int, Sendable {
    case unplugged
    case charging
    case full
  }

  public class var current: UIDevice { fatalError() }
  public var isBatteryMonitoringEnabled: Bool = false
  public var batteryState: BatteryState { fatalError() }
  public var batteryLevel: Float { -1 }
  nonisolated public class var batteryLevelDidChangeNotification: NSNotification.Name { fatalError() }
  nonisolated public class var batteryStateDidChangeNotification: NSNotification.Name { fatalError() }
}
