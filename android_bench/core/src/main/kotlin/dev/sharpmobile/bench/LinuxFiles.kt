// What Linux reports in files, of its CPUs and of this process: Android and computers alike.

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException

private const val MOST_CPUS = 1024

/** root: where /proc and /sys are. */
class LinuxFiles(private val root: File = File("/")) {
    /** CPUs that are faster than the slowest ones, all if they are equal; null if the system does not say. */
    fun performanceCores(): Int? {
        val fastest = perCpu("cpuinfo_max_freq").takeIf { it.isNotEmpty() } ?: return null
        return fastest.count { it > fastest.min() }.takeIf { it > 0 } ?: fastest.size
    }

    /** The current clock of each CPU; of those that are on and that the system reports. */
    fun clocksHz(): List<Long> = perCpu("scaling_cur_freq").map { it * 1000 }.ifEmpty {
        val lines = lines("proc/cpuinfo").filter { it.startsWith("cpu MHz") }
        lines.mapNotNull { it.substringAfter(':').trim().toDoubleOrNull() }.map { (it * 1e6).toLong() }
    }

    /** Of this process; the same lines as host_bench/memory.h. footprint: its proportional set size (PSS). */
    fun memory(footprint: Long? = pss()): Memory {
        val bytes = kilobytes("proc/self/status")
        return Memory(
            anonymous = bytes["RssAnon"] ?: 0,
            file = (bytes["RssFile"] ?: 0) + (bytes["RssShmem"] ?: 0),
            peak = bytes["VmHWM"] ?: 0,
            footprint = footprint,
        )
    }

    private fun pss(): Long? = kilobytes("proc/self/smaps_rollup")["Pss"]

    private fun perCpu(file: String): List<Long> =
        (0 until MOST_CPUS).asSequence().map { File(root, "sys/devices/system/cpu/cpu$it") }.takeWhile { it.exists() }
            .mapNotNull { cpu -> lines(File(cpu, "cpufreq/$file")).firstOrNull()?.trim()?.toLongOrNull() }.toList()

    /** "Name:  12 kB", in bytes. */
    private fun kilobytes(file: String): Map<String, Long> = lines(file).mapNotNull { line ->
        val count = line.substringAfter(':').trim().substringBefore(' ').toLongOrNull()
        count?.let { line.substringBefore(':') to it * 1024 }
    }.toMap()

    private fun lines(file: String) = lines(File(root, file))

    private fun lines(file: File): List<String> = try {
        file.readLines()
    } catch (_: IOException) {
        listOf() // not there, or not for apps
    }
}
