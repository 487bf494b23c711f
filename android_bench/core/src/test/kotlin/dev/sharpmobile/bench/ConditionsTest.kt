package dev.sharpmobile.bench

import java.util.concurrent.CountDownLatch
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class ConditionsTest {
    @Test
    fun samplesAreTakenAtTheStartWhileItWorksAndAtTheEnd() {
        val later = CountDownLatch(3)
        val sampler = Sampler({ at -> Condition(at, "cool").also { later.countDown() } }, every = 0.01)
        sampler.start()
        assertTrue(sampler.taken().isNotEmpty())
        later.await() // by its thread, while this one waits
        sampler.stop()
        val taken = sampler.taken()
        assertTrue(taken.size >= 4)
        assertEquals(taken.map { it.at }.sorted(), taken.map { it.at })
        assertEquals(setOf<String?>("cool"), taken.map { it.thermal }.toSet())
        Thread.sleep(30)
        assertEquals(taken, sampler.taken())
    }

    @Test
    fun aProbeThatFailsLeavesAnEmptySample() {
        val sampler = Sampler({ throw IllegalStateException("no battery") })
        sampler.start()
        sampler.stop()
        assertEquals(listOf(null, null), sampler.taken().map { it.thermal })
    }
}
