package dev.sharpmobile.bench

import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import java.util.concurrent.atomic.AtomicInteger
import kotlin.concurrent.thread
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertIs
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** The holder on the plain JVM, with screens that come and go. */
class RunHolderTest {
    private val below = temporary()
    private val out = temporary()
    private val directories = listOf(writeExport(below, "a"))
    private val holder = RunHolder()

    /** Stands still in a step of the given load, until it is let go. */
    private class Halting(private val at: Int) {
        val reached = CountDownLatch(1)
        val go = CountDownLatch(1)
        val engine = FakeEngine {
            if (it.loads == at) {
                reached.countDown()
                check(go.await(20, TimeUnit.SECONDS)) { "nobody let it go" }
            }
        }
    }

    /** A screen: what it was shown. */
    private class Screen : (RunState) -> Unit {
        val shown = LinkedBlockingQueue<RunState>()

        override fun invoke(state: RunState) {
            shown.add(state)
        }

        fun end(): RunState.Ended {
            while (true) {
                val state = shown.poll(20, TimeUnit.SECONDS) ?: error("the run did not end")
                if (state is RunState.Ended) return state
            }
        }
    }

    private fun start(engine: Engine) = holder.start(directories) { say, stop ->
        Session(
            Plan(repetitions = 1, forwards = 1, prefill = 2, decode = 1), engine, { DEVICE }, { Room(1 shl 20) },
            { Condition(it) }, File(out, "caches"), Status(File(out, "status.json")), { File(out, "${it.name}.json") },
            say, stop,
        )
    }

    private fun file() = Results.parse(File(out, "a.json").readText())

    @Test
    fun aScreenThatIsRecreatedMissesNothingAndStartsNoSecondRun() {
        val halting = Halting(at = 3) // in a later launch
        val old = Screen()
        holder.watch(old)
        assertTrue(start(halting.engine))
        halting.reached.await()
        val line = RunState.Running("repetition 1 of 1: a")
        assertEquals(listOf(RunState.Idle, RunState.Running("opening"), line), old.shown.toList())
        val new = Screen()
        holder.watch(new) // Android creates the new one before it ends the old one, or after
        holder.unwatch(old)
        assertEquals<List<RunState>>(listOf(line), new.shown.toList())
        var made = 0
        assertFalse(holder.start(directories) { _, _ -> throw IllegalStateException("made ${++made}") })
        halting.go.countDown()
        val ended = new.end()
        assertNull(ended.results.single().error)
        assertEquals(listOf(ended.results, listOf(file())), listOf(listOf(file()), ended.results))
        assertEquals(0, made)
        assertEquals(4, halting.engine.loads) // one run's
        assertFalse(old.shown.any { it is RunState.Ended })
        val latest = Screen().also(holder::watch)
        assertEquals<List<RunState>>(listOf(ended), latest.shown.toList())
        assertTrue(start(FakeEngine()))
        assertNull(latest.also { it.shown.clear() }.end().error)
    }

    @Test
    fun ofManyStartsAtTheSameTimeOneIsARun() {
        val halting = Halting(at = 1)
        val screen = Screen().also(holder::watch)
        val together = CountDownLatch(1)
        val begun = AtomicInteger()
        val threads = List(8) {
            thread {
                together.await()
                if (start(halting.engine)) begun.incrementAndGet()
            }
        }
        together.countDown()
        threads.forEach { it.join() }
        halting.go.countDown()
        assertNull(screen.end().results.single().error)
        assertEquals(listOf(1, 4), listOf(begun.get(), halting.engine.loads))
    }

    @Test
    fun anAppInTheBackgroundSaysSoAtOnceAndTheLaunchIsNotCounted() {
        val halting = Halting(at = 3)
        val screen = Screen().also(holder::watch)
        start(halting.engine)
        halting.reached.await()
        holder.background()
        val error = "the app went to the background during a later launch of a, which is not counted; " +
            "keep the app in front and run it again"
        assertEquals(error, file().error) // while the launch is still under way
        assertEquals(1, file().load.first?.seconds?.size)
        halting.go.countDown()
        val results = screen.end().results.single()
        assertEquals(error, results.error)
        assertEquals(1, results.load.first?.seconds?.size)
        assertEquals(listOf(null, null), listOf(results.load.later, results.decode))
        assertEquals(results, file())
        holder.background() // after the run: nothing
        assertEquals(results, file())
    }

    @Test
    fun theUserStopsItAfterTheLaunch() {
        val halting = Halting(at = 2)
        val screen = Screen().also(holder::watch)
        start(halting.engine)
        halting.reached.await()
        holder.stop()
        halting.go.countDown()
        val results = screen.end().results.single()
        assertEquals("stopped after 0 of 1 repetitions; run it again", results.error)
        assertEquals(1, results.load.first?.seconds?.size)
        screen.shown.clear()
        assertTrue(start(FakeEngine())) // the stop was that run's
        assertNull(screen.end().results.single().error)
    }

    @Test
    fun aRunThatCannotBeginEndsWithItsReason() {
        val screen = Screen().also(holder::watch)
        holder.start(directories) { _, _ -> throw UnsatisfiedLinkError("no library") }
        assertEquals(RunState.Ended(listOf(), "no library"), screen.end())
        holder.start(listOf()) { say, stop ->
            assertNull(stop())
            Session(Plan(), FakeEngine(), { DEVICE }, { Room(0) }, { Condition(it) }, null, null, { it }, say, stop)
        }
        val ended = screen.end()
        assertIs<RunState.Ended>(ended)
        assertEquals("no export is named; name a directory with a manifest.json", ended.error)
    }
}
