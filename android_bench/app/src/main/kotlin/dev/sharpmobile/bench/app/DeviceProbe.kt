// What the phone is, how warm it is, and what is free on it.

package dev.sharpmobile.bench.app

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import dev.sharpmobile.bench.Device
import dev.sharpmobile.bench.Memory
import dev.sharpmobile.bench.Room
import java.io.File
import java.util.Locale

class DeviceProbe(private val context: Context) {
    fun device() = Device(
        kind = "android",
        model = "${Build.MANUFACTURER} ${Build.MODEL}",
        os = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
        cpu = if (Build.VERSION.SDK_INT >= 31) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else Build.HARDWARE,
        cores = Runtime.getRuntime().availableProcessors(),
        memoryBytes = memoryInfo().totalMem,
        thermal = thermal(),
        battery = battery(),
    )

    /** availableMemory: what the system can give before it begins to end apps. */
    fun room(): Room {
        val memory = memoryInfo()
        return Room(context.filesDir.usableSpace, memory.availMem - memory.threshold)
    }

    private fun memoryInfo() = ActivityManager.MemoryInfo().also {
        (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(it)
    }

    /** Android 10 and later tell. */
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

    /** "87%, charging, 31.5 °C", without what is not known. */
    private fun battery(): String? {
        // The latest state is kept by the system; nothing is registered.
        val state = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED)) ?: return null
        val level = state.getIntExtra(BatteryManager.EXTRA_LEVEL, -1)
        val scale = state.getIntExtra(BatteryManager.EXTRA_SCALE, -1)
        val tenths = state.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, Int.MIN_VALUE)
        val charge = when (state.getIntExtra(BatteryManager.EXTRA_STATUS, -1)) {
            BatteryManager.BATTERY_STATUS_CHARGING -> "charging"
            BatteryManager.BATTERY_STATUS_DISCHARGING -> "discharging"
            BatteryManager.BATTERY_STATUS_NOT_CHARGING -> "not charging"
            BatteryManager.BATTERY_STATUS_FULL -> "full"
            else -> null
        }
        val parts = listOfNotNull(
            if (level >= 0 && scale > 0) "${100 * level / scale}%" else null,
            charge,
            if (tenths != Int.MIN_VALUE) "%.1f °C".format(Locale.ROOT, tenths / 10.0) else null,
        )
        return parts.joinToString(", ").ifEmpty { null }
    }
}

/** As Linux counts this process, in kB; the same lines as host_bench/memory.h. */
fun processMemory(): Memory {
    val bytes = File("/proc/self/status").readLines().associate { line ->
        line.substringBefore(':') to (line.substringAfter(':').trim().substringBefore(' ').toLongOrNull() ?: 0) * 1024
    }
    fun of(name: String) = bytes[name] ?: 0
    return Memory(anonymous = of("RssAnon"), file = of("RssFile") + of("RssShmem"), peak = of("VmHWM"))
}
