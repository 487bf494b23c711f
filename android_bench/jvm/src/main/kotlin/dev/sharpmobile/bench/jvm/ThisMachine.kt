// What this computer is, and how it is during a run.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Condition
import dev.sharpmobile.bench.Device
import dev.sharpmobile.bench.LinuxFiles
import java.io.File

object ThisMachine {
    // As the kernel names it, so that the device equals that of other programs' results.
    private val architecture = System.getProperty("os.arch").let { if (it == "amd64") "x86_64" else it }

    fun device(): Device {
        val product = File("/sys/class/dmi/id/product_name")
        val memory = File("/proc/meminfo").readLines().first { it.startsWith("MemTotal:") }
        return Device(
            kind = "host",
            model = if (product.isFile) product.readText().trim() else architecture,
            os = "${System.getProperty("os.name")} ${System.getProperty("os.version")}",
            cpu = cpuFields().toMap()["model name"] ?: architecture,
            cores = Runtime.getRuntime().availableProcessors(),
            performanceCores = LinuxFiles().performanceCores(),
            memoryBytes = memory.split(Regex("\\s+"))[1].toLong() * 1024,
        )
    }

    fun condition(at: Double) = Condition(at, clocksHz = LinuxFiles().clocksHz())
}
