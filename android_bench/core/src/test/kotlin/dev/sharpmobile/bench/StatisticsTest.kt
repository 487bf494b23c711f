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
}
