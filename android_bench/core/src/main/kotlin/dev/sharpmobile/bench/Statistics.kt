// The numbers that are told of several runs.

package dev.sharpmobile.bench

import kotlin.math.sqrt

object Statistics {
    fun mean(values: List<Double>): Double = values.sum() / values.size

    /** Of a sample; 0 for a single run. */
    fun sampleStandardDeviation(values: List<Double>): Double {
        if (values.size < 2) return 0.0
        val mean = mean(values)
        return sqrt(values.sumOf { (it - mean) * (it - mean) } / (values.size - 1))
    }

    /** The middle value; the mean of the two in the middle where their number is even. */
    fun median(values: List<Double>): Double {
        val sorted = values.sorted()
        val middle = sorted.size / 2
        return if (sorted.size % 2 == 1) sorted[middle] else (sorted[middle - 1] + sorted[middle]) / 2
    }

    fun minimum(values: List<Double>): Double = values.min()

    /** By the median run. */
    fun tokensPerSecond(samples: TokenSamples): Double = samples.tokens / median(samples.seconds)
}
