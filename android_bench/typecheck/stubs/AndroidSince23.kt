// Classes to which Android has added, since API 23, what the app calls; before android.jar on the class path.

package android.os

class PowerManager private constructor() {
    val currentThermalStatus: Int = 0 // API 29

    companion object {
        const val THERMAL_STATUS_NONE = 0
        const val THERMAL_STATUS_LIGHT = 1
        const val THERMAL_STATUS_MODERATE = 2
        const val THERMAL_STATUS_SEVERE = 3
        const val THERMAL_STATUS_CRITICAL = 4
        const val THERMAL_STATUS_EMERGENCY = 5
        const val THERMAL_STATUS_SHUTDOWN = 6
    }
}

class Build {
    class VERSION {
        companion object {
            @JvmField val SDK_INT: Int = 0
            @JvmField val RELEASE: String = ""
        }
    }

    companion object {
        @JvmField val MANUFACTURER: String = ""
        @JvmField val MODEL: String = ""
        @JvmField val HARDWARE: String = ""
        @JvmField val SUPPORTED_ABIS: Array<String> = arrayOf()
        @JvmField val SOC_MANUFACTURER: String = "" // API 31
        @JvmField val SOC_MODEL: String = "" // API 31
    }
}
