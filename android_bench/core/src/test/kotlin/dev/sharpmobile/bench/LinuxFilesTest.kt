package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

class LinuxFilesTest {
    private val root = temporary()
    private val files = LinuxFiles(root)

    private fun cpus(file: String, vararg values: Int?) {
        for ((cpu, value) in values.withIndex()) {
            val directory = File(root, "sys/devices/system/cpu/cpu$cpu/cpufreq").also { it.mkdirs() }
            if (value != null) File(directory, file).writeText("$value\n")
        }
    }

    @Test
    fun performanceCoresAreFasterThanTheSlowest() {
        assertNull(files.performanceCores())
        cpus("cpuinfo_max_freq", 1_800_000, 1_800_000, 2_400_000, 3_000_000)
        assertEquals(2, files.performanceCores())
        cpus("cpuinfo_max_freq", 5, 5, 5, 5)
        assertEquals(4, files.performanceCores())
    }

    @Test
    fun clocksAreThoseOfTheKernel() {
        assertEquals(listOf(), files.clocksHz())
        File(root, "proc").mkdirs()
        File(root, "proc/cpuinfo").writeText("processor\t: 0\ncpu MHz\t\t: 2596.5\n")
        assertEquals(listOf(2_596_500_000), files.clocksHz())
        cpus("scaling_cur_freq", 600_000, null, 3_000_000) // the second one is off
        assertEquals(listOf(600_000_000, 3_000_000_000), files.clocksHz())
    }

    @Test
    fun memoryIsThatOfTheProcess() {
        File(root, "proc/self").mkdirs()
        val status = "Name:\tx\nVmHWM:\t 90 kB\nRssAnon:\t 20 kB\nRssFile:\t3 kB\nRssShmem:\t1 kB\n"
        File(root, "proc/self/status").writeText(status)
        assertEquals(Memory(20 * 1024, 4 * 1024, 90 * 1024), files.memory())
        File(root, "proc/self/smaps_rollup").writeText("0-f [rollup]\nRss: 30 kB\nPss: 25 kB\nSwapPss: 1 kB\n")
        assertEquals(25 * 1024, files.memory().footprint)
        assertEquals(7, files.memory(footprint = 7).footprint)
    }

    @Test
    fun thisProcessHasMemory() {
        if (!File("/proc/self/smaps_rollup").exists()) return // not Linux
        val real = LinuxFiles().memory()
        assertTrue(real.anonymous > 0 && real.footprint!! > 0 && real.peak >= real.anonymous)
    }
}
