// The numbers that summarize several runs.

package dev.sharpmobile.bench

import kotlin.math.floor
import kotlin.math.min
import kotlin.math.roundToInt
import kotlin.math.sqrt

object Statistics {
    private const val BARS = "▁▂▃▄▅▆▇█"

    fun mean(values: List<Double>): Double = values.sum() / values.size

    /** Of a sample; 0 for a single run. */
    fun sampleStandardDeviation(values: List<Double>): Double {
        if (values.size < 2) return 0.0
        val mean = mean(values)
        return sqrt(values.sumOf { (it - mean) * (it - mean) } / (values.size - 1))
    }

    /** The middle value; the mean of the two middle ones if their number is even. */
    fun median(values: List<Double>): Double = percentile(values, 0.5)

    /** Linear between the closest ranks, as numpy has it; `fraction` is 0.9 for p90. */
    fun percentile(values: List<Double>, fraction: Double): Double {
        val sorted = values.sorted()
        val rank = fraction * (sorted.size - 1)
        val below = floor(rank).toInt()
        val above = min(below + 1, sorted.size - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (rank - below)
    }

    fun minimum(values: List<Double>): Double = values.min()

    /** Of the median run. */
    fun tokensPerSecond(samples: TokenSamples): Double = samples.tokens / median(samples.seconds)

    /** Values as bars from 0 to the largest; at most `width` of them, each the mean of its share. */
    fun sparkline(values: List<Double>, width: Int): String {
        val count = min(width, values.size)
        val shares = List(count) { mean(values.subList(it * values.size / count, (it + 1) * values.size / count)) }
        val largest = shares.maxOrNull() ?: return ""
        if (largest <= 0) return BARS.take(1).repeat(count)
        return shares.joinToString("") { BARS[(it / largest * (BARS.length - 1)).roundToInt()].toString() }
    }
}
