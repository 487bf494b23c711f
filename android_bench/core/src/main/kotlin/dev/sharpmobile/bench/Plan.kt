// What to measure, and the options that every way to start a run takes.

package dev.sharpmobile.bench

import kotlin.math.min

/**
 * repetitions: launches of each kind. warmups, forwards: of one token, in a launch. prefill, decode: tokens. depths:
 * tokens in the KV cache before a decode. threadsSweep: counts of threads, 0 for the performance cores. sustain:
 * seconds of the sustained run. coolDown: seconds to wait before each export's turn.
 */
data class Plan(
    val threads: Int = 1,
    val repetitions: Int = 5,
    val warmups: Int = 1,
    val forwards: Int = 5,
    val prefill: Int = 512,
    val decode: Int = 128,
    val depths: List<Int> = listOf(512),
    val threadsSweep: List<Int> = listOf(),
    val sustain: Int = 0,
    val coolDown: Int = 0,
) {
    /** No more tokens than the export's cache has room for; one step takes one less than the cache. */
    fun fitted(export: ExportFolder): Plan {
        val decode = min(decode, export.length - export.prompt.size)
        return copy(
            prefill = min(prefill, export.length - 1),
            decode = decode,
            depths = depths.filter { it + decode <= export.length },
        )
    }

    companion object {
        const val PERFORMANCE_CORES = 0
        val NAMES = listOf(
            "threads", "repetitions", "prefill", "decode", "depths", "threads_sweep", "sustain", "cool_down",
        )

        /** The plan of options by their names, as a command line, an intent or the environment gives them. */
        fun parse(options: Map<String, String>): Plan {
            val unknown = options.keys.firstOrNull { it !in NAMES }
            if (unknown != null) {
                throw Failure("$unknown=${options[unknown]}: is no option; the options are ${NAMES.joinToString(", ")}")
            }
            val plan = Plan()
            return Plan(
                threads = whole(options, "threads", 1) ?: plan.threads,
                repetitions = whole(options, "repetitions", 1) ?: plan.repetitions,
                prefill = whole(options, "prefill", 1) ?: plan.prefill,
                decode = whole(options, "decode", 1) ?: plan.decode,
                depths = options["depths"]?.let(::depths) ?: plan.depths,
                threadsSweep = options["threads_sweep"]?.let(::sweep) ?: plan.threadsSweep,
                sustain = whole(options, "sustain", 0) ?: plan.sustain,
                coolDown = whole(options, "cool_down", 0) ?: plan.coolDown,
            )
        }

        private fun whole(options: Map<String, String>, name: String, least: Int): Int? {
            val text = options[name] ?: return null
            return text.toIntOrNull()?.takeIf { it >= least }
                ?: throw Failure("$name=$text: write a whole number from $least on")
        }

        private fun depths(text: String): List<Int> {
            if (text == "none") return listOf()
            return text.split(',').map { it.toIntOrNull() ?: 0 }.takeIf { all -> all.all { it >= 1 } }
                ?: throw Failure("depths=$text: write whole numbers from 1 on with commas between, or none")
        }

        private fun sweep(text: String): List<Int> = text.split(',').map { count ->
            if (count == "performance") return@map PERFORMANCE_CORES
            count.toIntOrNull()?.takeIf { it >= 1 } ?: throw Failure(
                "threads_sweep=$text: write whole numbers from 1 on, or performance, with commas between",
            )
        }
    }

    /** The sweep's counts of threads on a device: distinct, ascending, and no more than its cores. */
    fun threadCounts(device: Device): List<Int> =
        threadsSweep.map { if (it == PERFORMANCE_CORES) device.performanceCores ?: device.cores else it }
            .filter { it <= device.cores }.distinct().sorted()
}
