// What to measure, and how much of it an export has room for.

package dev.sharpmobile.bench

import kotlin.math.min

/** repetitions: launches of each kind. warmups, forwards: of one token each. prefill, decode: tokens. */
data class Plan(
    val threads: Int = 1,
    val repetitions: Int = 5,
    val warmups: Int = 1,
    val forwards: Int = 5,
    val prefill: Int = 128,
    val decode: Int = 64,
) {
    init {
        val least = mapOf(
            "threads" to threads, "repetitions" to repetitions, "forwards" to forwards, "prefill" to prefill,
            "decode" to decode,
        )
        for ((name, value) in least) {
            if (value < 1) throw Failure("$name $value: write a whole number from 1 on")
        }
    }

    /** No more tokens than the export's cache has positions for. */
    fun fitted(export: ExportFolder): Plan {
        val room = export.length - export.prompt.size
        if (room < 1) {
            throw Failure(
                "${export.directory}: its prompt of ${export.prompt.size} tokens does not fit in its cache of " +
                    "${export.length}; export the model again with a larger max_length",
            )
        }
        return copy(prefill = min(prefill, export.length - 1), decode = min(decode, room))
    }
}
