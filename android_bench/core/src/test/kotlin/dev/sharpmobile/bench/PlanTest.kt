package dev.sharpmobile.bench

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class PlanTest {
    @Test
    fun everyOptionIsRead() {
        val options = mapOf(
            "threads" to "2", "repetitions" to "3", "prefill" to "64", "decode" to "16", "depths" to "128,256",
            "threads_sweep" to "1,2,performance", "sustain" to "60", "cool_down" to "0",
        )
        assertEquals(options.keys, Plan.NAMES.toSet())
        val plan = Plan.parse(options)
        val numbers = with(plan) { listOf(threads, repetitions, prefill, decode, sustain, coolDown) }
        assertEquals(listOf(2, 3, 64, 16, 60, 0), numbers)
        assertEquals(listOf(listOf(128, 256), listOf(1, 2, 0)), listOf(plan.depths, plan.threadsSweep))
        assertEquals(Plan(), Plan.parse(mapOf()))
        assertEquals(listOf(), Plan.parse(mapOf("depths" to "none")).depths)
    }

    @Test
    fun aWrongOptionSaysWhatToWrite() {
        val wrong = mapOf(
            "threads=all" to "write a whole number from 1 on",
            "repetitions=0" to "write a whole number from 1 on",
            "sustain=-1" to "write a whole number from 0 on",
            "cool_down=" to "write a whole number from 0 on",
            "depths=128, 256" to "write whole numbers from 1 on with commas between, or none",
            "depths=0" to "write whole numbers from 1 on with commas between, or none",
            "threads_sweep=1,fast" to "write whole numbers from 1 on, or performance, with commas between",
            "speed=9" to "is no option; the options are threads, repetitions, prefill, decode, depths, " +
                "threads_sweep, sustain, cool_down",
        )
        for ((given, problem) in wrong) {
            val (name, value) = given.split('=')
            val failure = assertFailsWith<Failure>(given) { Plan.parse(mapOf(name to value)) }
            assertEquals("$given: $problem", failure.message)
        }
    }

    @Test
    fun aPlanFitsTheCache() {
        val export = ExportFolder.open(writeExport(temporary(), "tiny")) // 16 positions, a prompt of 3
        val plan = Plan(depths = listOf(1, 3, 4)).fitted(export)
        assertEquals(listOf(15, 13), listOf(plan.prefill, plan.decode))
        assertEquals(listOf(1, 3), plan.depths)
    }

    @Test
    fun threadCountsAreThoseOfTheDevice() {
        val plan = Plan(threadsSweep = listOf(4, Plan.PERFORMANCE_CORES, 1, 9, 2))
        assertEquals(listOf(1, 2, 4), plan.threadCounts(DEVICE.copy(cores = 8, performanceCores = 2)))
        assertEquals(listOf(1, 2, 3, 4, 8), plan.copy(threadsSweep = plan.threadsSweep + 3)
            .threadCounts(DEVICE.copy(cores = 8, performanceCores = null)))
        assertEquals(listOf(), Plan().threadCounts(DEVICE))
    }
}
