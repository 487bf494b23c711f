package dev.sharpmobile.bench

import kotlin.test.Test
import kotlin.test.assertEquals

class GreedyTest {
    @Test
    fun ofEqualsTheFirstComesFirst() {
        val logits = floatArrayOf(-1f, 2f, 0.5f, 2f, -3f)
        assertEquals(1, Greedy.argmax(logits))
        assertEquals(listOf(1L to 2.0, 3L to 2.0, 2L to 0.5), Greedy.likeliest(logits, 3).map { it.token to it.logit })
        assertEquals(5, Greedy.likeliest(logits, 9).size)
    }

    @Test
    fun allButTheLastAreFedAndAnEndStops() {
        val engine = FakeEngine()
        val model = engine.load(writeExport(temporary(), "tiny").resolve("model.pte"), 1, null)
        val logits = model.step(longArrayOf(3), 0)
        engine.calls.clear()
        assertEquals(listOf(4L, 5, 6), Greedy.continuation(model, logits, 1, 3, listOf()))
        assertEquals(listOf("step [4] at 1", "step [5] at 2"), engine.calls)
        assertEquals(listOf(4L, 5), Greedy.continuation(model, logits, 1, 3, listOf(5)))
    }

    @Test
    fun everyTokenIsTimedAndNoneIsAnEnd() {
        val engine = FakeEngine()
        val model = engine.load(writeExport(temporary(), "tiny").resolve("model.pte"), 1, null)
        val logits = model.step(longArrayOf(3), 0)
        engine.calls.clear()
        val seconds = Greedy.timedContinuation(model, logits, 1, 3)
        assertEquals(listOf("step [4] at 1", "step [5] at 2", "step [6] at 3"), engine.calls)
        assertEquals(listOf(true, true, true), seconds.map { it > 0 })
    }
}
