// What to measure.

package dev.sharpmobile.bench

import kotlin.math.min

/** repetitions: launches of each kind. warmups, forwards: of one token, in a launch. prefill, decode: tokens. */
data class Plan(
    val threads: Int = 1,
    val repetitions: Int = 5,
    val warmups: Int = 1,
    val forwards: Int = 5,
    val prefill: Int = 128,
    val decode: Int = 64,
) {
    init {
        val counts = listOf("threads" to threads, "repetitions" to repetitions, "forwards" to forwards)
        for ((name, count) in counts + listOf("prefill" to prefill, "decode" to decode)) {
            if (count < 1) throw Failure("$name $count: write a whole number from 1 on")
        }
    }

    /** No more tokens than the export's cache has room for; one step takes one less than the cache. */
    fun fitted(export: ExportFolder): Plan =
        copy(prefill = min(prefill, export.length - 1), decode = min(decode, export.length - export.prompt.size))
}
