// What the phone is, how it is during a run, and what is free on it.

package dev.sharpmobile.bench.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import dev.sharpmobile.bench.Condition
import dev.sharpmobile.bench.Device
import dev.sharpmobile.bench.LinuxFiles
import dev.sharpmobile.bench.Room
import java.util.Locale

class DeviceProbe(private val context: Context) {
    fun device() = Device(
        kind = "android",
        model = "${Build.MANUFACTURER} ${Build.MODEL}",
        os = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
        cpu = if (Build.VERSION.SDK_INT >= 31) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else Build.HARDWARE,
        cores = Runtime.getRuntime().availableProcessors(),
        performanceCores = LinuxFiles().performanceCores(),
        memoryBytes = memoryInfo().totalMem,
        thermal = thermal(),
        battery = battery(),
    )

    /** availableMemory: what the system can give before it begins to end apps. */
    fun room(): Room {
        val memory = memoryInfo()
        return Room(context.filesDir.usableSpace, memory.availMem - memory.threshold)
    }

    /** What changes during a run; `at`: seconds since its start. */
    fun condition(at: Double): Condition {
        val state = batteryState()
        val status = state?.getIntExtra(BatteryManager.EXTRA_STATUS, -1)
        val battery = context.getSystemService(Context.BATTERY_SERVICE) as BatteryManager
        return Condition(
            at = at,
            thermal = thermal(),
            clocksHz = LinuxFiles().clocksHz(),
            chargeUah = battery.getLongProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER).takeIf { it > 0 },
            batteryLevel = state?.let(::level),
            charging = status?.let { it in CHARGING },
            batteryCelsius = state?.let(::celsius),
        )
    }

    private fun memoryInfo() = ActivityManager.MemoryInfo().also {
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(it)
    }

    /** Android 10 and later report it. */
    private fun thermal(): String? {
        if (Build.VERSION.SDK_INT < 29) return null
        val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
        return when (power.currentThermalStatus) {
            PowerManager.THERMAL_STATUS_NONE -> "none"
            PowerManager.THERMAL_STATUS_LIGHT -> "light"
            PowerManager.THERMAL_STATUS_MODERATE -> "moderate"
            PowerManager.THERMAL_STATUS_SEVERE -> "severe"
            PowerManager.THERMAL_STATUS_CRITICAL -> "critical"
            PowerManager.THERMAL_STATUS_EMERGENCY -> "emergency"
            PowerManager.THERMAL_STATUS_SHUTDOWN -> "shutdown"
            else -> null
        }
    }

    /** "87%, charging, 31.5 °C", without what the system does not report. */
    private fun battery(): String? {
        val state = batteryState() ?: return null
        val charge = when (state.getIntExtra(BatteryManager.EXTRA_STATUS, -1)) {
            BatteryManager.BATTERY_STATUS_CHARGING -> "charging"
            BatteryManager.BATTERY_STATUS_DISCHARGING -> "discharging"
            BatteryManager.BATTERY_STATUS_NOT_CHARGING -> "not charging"
            BatteryManager.BATTERY_STATUS_FULL -> "full"
            else -> null
        }
        val parts = listOfNotNull(
            level(state)?.let { "${(100 * it).toInt()}%" },
            charge,
            celsius(state)?.let { "%.1f °C".format(Locale.ROOT, it) },
        )
        return parts.joinToString(", ").ifEmpty { null }
    }

    /** The system keeps the latest state; nothing is registered. */
    private fun batteryState(): Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))

    private fun level(state: Intent): Double? {
        val level = state.getIntExtra(BatteryManager.EXTRA_LEVEL, -1)
        val scale = state.getIntExtra(BatteryManager.EXTRA_SCALE, -1)
        return if (level >= 0 && scale > 0) level.toDouble() / scale else null
    }

    private fun celsius(state: Intent): Double? {
        val tenths = state.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE)
        return if (tenths != Int.MIN_VALUE) tenths / 10.0 else null
    }

    private companion object {
        val CHARGING = listOf(BatteryManager.BATTERY_STATUS_CHARGING, BatteryManager.BATTERY_STATUS_FULL)
    }
}
