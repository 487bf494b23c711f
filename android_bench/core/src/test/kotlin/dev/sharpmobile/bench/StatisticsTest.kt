package dev.sharpmobile.bench

import kotlin.test.Test
import kotlin.test.assertEquals

class StatisticsTest {
    private val forward = listOf(0.01, 0.02, 0.03, 0.02, 0.02)

    /** The numbers of tests/bench/test_results.py. */
    @Test
    fun theyArePythons() {
        assertEquals(0.02, Statistics.median(forward))
        assertEquals(0.01, Statistics.minimum(forward))
        assertEquals(0.02, Statistics.mean(forward), 1e-12)
        assertEquals(0.0070710678, Statistics.sampleStandardDeviation(forward), 1e-10)
        assertEquals(0.0, Statistics.sampleStandardDeviation(listOf(2.0)))
        assertEquals(20.0, Statistics.tokensPerSecond(TokenSamples(listOf(0.5, 0.25, 1.0), 10)))
    }

    @Test
    fun theMedianOfAnEvenNumberIsBetween() = assertEquals(2.5, Statistics.median(listOf(4.0, 1.0, 2.0, 3.0)))

    /** numpy.percentile([4, 1, 2, 3], …) */
    @Test
    fun percentilesAreNumpys() {
        val values = listOf(4.0, 1.0, 2.0, 3.0)
        val found = listOf(0.0, 0.5, 0.9, 1.0).map { Statistics.percentile(values, it) }
        for ((ours, numpys) in found.zip(listOf(1.0, 2.5, 3.7, 4.0))) assertEquals(numpys, ours, 1e-12)
        assertEquals(7.0, Statistics.percentile(listOf(7.0), 0.9))
    }

    @Test
    fun aSparklineGoesFromZeroToTheLargest() {
        assertEquals("▁▅█", Statistics.sparkline(listOf(0.0, 5.0, 10.0), 20))
        assertEquals("▂█", Statistics.sparkline(listOf(0.0, 2.0, 9.0, 7.0), 2)) // the means 1 and 8
        assertEquals("▁▁", Statistics.sparkline(listOf(0.0, 0.0), 20))
        assertEquals("", Statistics.sparkline(listOf(), 20))
    }
}
