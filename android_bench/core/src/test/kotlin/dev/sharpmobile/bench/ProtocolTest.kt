package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull

class ProtocolTest {
    private val below = temporary()
    private val caches = File(temporary(), "caches")
    private val plan = Plan(repetitions = 2, forwards = 2, prefill = 6, decode = 2, depths = listOf(4))
    private val a = ExportFolder.open(writeExport(below, "a"))
    private val b = ExportFolder.open(writeExport(below, "b"))

    private fun run(
        engine: Engine, place: Place = place(caches), exports: List<ExportFolder> = listOf(a, b),
        plan: Plan = this.plan, say: (String) -> Unit = {}, stop: () -> Stop? = { null },
    ) = BenchProtocol.run(exports, plan, engine, place, say, stop)

    private fun FakeEngine.loaded() = calls.filter { it.startsWith("load") }

    @Test
    fun exportsAlternateAndStepsAreTheRunners() {
        val engine = FakeEngine()
        val lines = mutableListOf<String>()
        val found = run(engine, say = lines::add)
        assertEquals((1..2).flatMap { listOf("repetition $it of 2: a", "repetition $it of 2: b") }, lines)
        val repetition = listOf("a", "b").flatMap { listOf("load $it packs", "load $it packed", "load $it packed") }
        assertEquals(listOf("load a", "load b") + repetition + repetition, engine.loaded())
        // A prompt of six in parts of at most four.
        val firstToken = listOf("step [1, 2, 3, 1] at 0", "step [2, 3] at 4")
        val later = listOf("load a packed", "step [1, 2, 3] at 0") +       // the prompt
            List(3) { "step [4] at 3" } +                                 // a warm-up and two forwards
            firstToken +                                                  // a prefill of six
            listOf("step [1, 2, 3] at 0", "step [4] at 3", "step [5] at 4") + // decode two
            listOf("step [1, 2, 3, 1] at 0", "step [2] at 4", "step [3] at 5") // decode two after four
        val turn = listOf("load a packs") + firstToken + later + "load a packed" + firstToken
        val start = engine.calls.indexOf("load a packs")
        assertEquals(turn, engine.calls.subList(start, start + turn.size))
        assertEquals(0, engine.open)
        for ((export, results) in listOf(a, b).zip(found)) check(export, results)
    }

    private fun check(export: ExportFolder, results: Results) {
        assertEquals(listOf("ok", null, listOf<String>()), listOf(results.status, results.error, results.warnings))
        assertEquals(export.identity, results.export)
        assertEquals(Settings("fake", "executorch 1.5.1", 1, true, true), results.settings)
        val samples = listOf(results.load.first, results.load.later, results.forward, results.tokenLatency)
        assertEquals(listOf(2, 2, 4, 4), samples.map { it?.seconds?.size })
        val tokens = with(results) { listOf(firstToken.first, firstToken.later, prefill, decode) }
        assertEquals(listOf(6 to 2, 6 to 2, 6 to 2, 2 to 2), tokens.map { it?.tokens to it?.seconds?.size })
        val depths = results.decodeAtDepth.map { Triple(it.depth, it.tokens, it.seconds.size) }
        assertEquals(listOf(Triple(4, 2, 2)), depths)
        val latency = results.tokenLatency!!.seconds
        assertEquals(latency.take(2).sum(), results.decode!!.seconds[0], 1e-12)
        assertEquals(true, results.firstToken.first!!.seconds[0] > results.load.first!!.seconds[0])
        // The system's mark of the footprint rose with every load; that of resident memory did not.
        val rose = if (export == a) 37L else 40L
        assertEquals(listOf(Memory(101, 50, 151, 21, rose), Memory(100, 50, 999, 20, 30)),
            listOf(results.memory, results.idleMemory))
        assertEquals(listOf(4L, 0, 1, 2, 3), results.likeliest.map { it.token })
        assertEquals(listOf(4L, 5, 6), results.tokens)
        assertEquals(listOf(4L, 5, 6), results.expectedTokens)
        assertEquals(results, Results.parse(results.toJson()))
    }

    @Test
    fun withoutPackedWeightsEveryLaunchIsAFirstOne() {
        val engine = FakeEngine(packedCache = false, limits = listOf("it cannot keep them"))
        val results = run(engine)[0]
        assertNull(results.load.later)
        assertEquals(false, results.settings.packedCache)
        assertEquals(listOf("it cannot keep them"), results.warnings)
        assertNull(results.firstToken.later)
        assertEquals(2, results.firstToken.first?.seconds?.size)
        assertEquals(List(10) { true }, engine.loaded().map { it.length == 6 })
        assertNull(caches.list())
    }

    @Test
    fun aFailureKeepsWhatWasMeasuredAndTheOthersGoOn() {
        val (failed, whole) = run(FakeEngine(failsAt = 9)) // a's first launch in the second repetition
        assertEquals(listOf("failed", "the runtime said no"), listOf(failed.status, failed.error))
        val samples = listOf(failed.load.first, failed.load.later, failed.forward)
        assertEquals(listOf(1, 1, 2), samples.map { it?.seconds?.size })
        assertEquals(listOf("ok", 2), listOf(whole.status, whole.load.later?.seconds?.size))
    }

    @Test
    fun whatCannotRunFailsBeforeItIsLoaded() {
        val other = ExportFolder.open(writeExport(below, "other", "1.9.0"))
        val damaged = ExportFolder.open(writeExport(below, "damaged"))
        damaged.pte.writeText("THE program of damaged")
        val copied = File(below, "copy").also { a.directory.copyRecursively(it) }
        val copy = ExportFolder.open(copied)
        val engine = FakeEngine()
        val found = run(engine, exports = listOf(a, other, damaged, copy))
        assertNull(found[0].error)
        val problem =
            listOf("was exported for executorch 1.9.0", "is not the file of its manifest", "the same export as a")
        for ((results, error) in found.drop(1).zip(problem)) assertContains(assertNotNull(results.error), error)
        assertEquals(setOf("load a"), engine.loaded().map { it.take(6) }.toSet())
        val full = run(engine, place(caches, Room(5)))[0]
        assertContains(full.error!!, "bytes of disk for packed weights, 5 are free")
        val low = run(FakeEngine(packedCache = false), place(null, Room(0, 5)))[0]
        assertContains(low.error!!, "bytes of memory for packed weights, the system gives 5")
    }

    @Test
    fun theConditionsOfTheWholeRunAreInEveryResult() {
        val other = ExportFolder.open(writeExport(below, "other", "1.9.0"))
        val conditions = { at: Double -> Condition(at, "severe", listOf(5)) }
        val found = run(FakeEngine(), place(caches, condition = conditions), listOf(other, a))
        assertEquals(found[0].conditions, found[1].conditions)
        assertEquals(2, found[0].conditions.size) // a run of less than two seconds: at its start and at its end
        assertEquals(listOf("severe" to listOf(5L)), found[0].conditions.map { it.thermal to it.clocksHz }.distinct())
        assertEquals(listOf(), found[1].warnings) // Python judges
    }

    @Test
    fun aStoppedRunKeepsWhatWasMeasured() {
        val engine = FakeEngine()
        val found = run(engine, stop = { if (engine.loads >= 7) Stop.USER else null }) // after a later launch of b
        assertEquals(listOf(1, 0).map { "stopped after $it of 2 repetitions; run it again" }, found.map { it.error })
        assertEquals(listOf(1, 1), found.map { it.load.later?.seconds?.size })
        assertEquals(7, engine.loads)
    }

    @Test
    fun aLaunchInTheBackgroundIsNotCounted() {
        var away = false
        val engine = FakeEngine { if (it.loads == 7) away = true } // in a later launch of b
        val (a, b) = run(engine, stop = { if (away) Stop.BACKGROUND else null })
        assertEquals(
            "the app went to the background during a later launch of b, which is not counted; " +
                "keep the app in front and run it again",
            b.error,
        )
        assertEquals(listOf(1, null, null), listOf(b.load.first?.seconds?.size, b.load.later, b.decode))
        assertEquals("stopped after 1 of 2 repetitions; run it again", a.error)
        assertEquals(7, engine.loads)
    }

    @Test
    fun threadsAreSwept() {
        val engine = FakeEngine()
        val lines = mutableListOf<String>()
        val sweep = plan.copy(repetitions = 1, threadsSweep = listOf(Plan.PERFORMANCE_CORES, 1, 4))
        val found = run(engine, plan = sweep, say = lines::add)
        assertEquals(listOf("1 threads: a", "2 threads: a", "1 threads: b", "2 threads: b"), lines.drop(2))
        assertEquals(listOf("load a packed", "load a packed by 2"), engine.loaded().takeLast(4).take(2))
        for (results in found) {
            assertNull(results.error)
            assertEquals(listOf(1, 2), results.threadsSweep.map { it.threads })
            val (prefills, decodes) = results.threadsSweep.map { it.prefill } to results.threadsSweep.map { it.decode }
            assertEquals(listOf(6 to 1, 6 to 1), prefills.map { it.tokens to it.seconds.size })
            assertEquals(listOf(2 to 1, 2 to 1), decodes.map { it.tokens to it.seconds.size })
        }
        val stopped = FakeEngine()
        val (cut) = run(stopped, plan = sweep, exports = listOf(a), stop = { Stop.USER.takeIf { stopped.loads >= 5 } })
        assertEquals("stopped during the threads sweep; run it again", cut.error)
        assertEquals(1, cut.threadsSweep.size)
    }

    @Test
    fun aSustainedRunIsJoinedIntoWindows() {
        var now = 0.0 // seconds, by an engine for which every step takes five
        val engine = FakeEngine {
            now += 5
            if ("[4]" in it.calls.last()) Thread.sleep(600) // the clock of windows: two cycles are more than a second
        }
        val said = mutableListOf<Int>()
        val fitted = plan.copy(sustain = 75).fitted(a)
        val run = Launch(a, fitted, engine).sustain(null, { now }, said::add) { false }
        // Five cycles of 15 seconds; the last one alone is no window.
        assertEquals(listOf(30.0 to 4, 60.0 to 4), run.windows.map { it.at to it.tokens })
        assertEquals(listOf(true, true, true), run.windows.map { it.seconds >= 1 } + run.complete)
        assertEquals(listOf(0, 15, 30, 45, 60), said)
        assertEquals(List(5) { "step [1, 2, 3] at 0" }, engine.calls.filter { "[1" in it })
        val stopped = Launch(a, fitted, engine).sustain(null, { now }, {}) { now >= 90 }
        assertEquals(listOf(0, false), listOf(stopped.windows.size, stopped.complete))
    }

    @Test
    fun aSustainedRunThatIsStoppedIsIncomplete() {
        val long = plan.copy(repetitions = 1, sustain = 3600)
        val lines = mutableListOf<String>()
        var engine = FakeEngine()
        val stop = { Stop.USER.takeIf { engine.loads >= 5 && engine.calls.last() == "step [5] at 4" } }
        val (results) = run(engine, exports = listOf(a), plan = long, say = lines::add, stop = stop)
        assertEquals("sustained: a, 0 of 3600 s", lines.last())
        assertEquals("stopped during the sustained run; run it again", results.error)
        assertNotNull(results.decode)
        engine = FakeEngine()
        val away = { Stop.BACKGROUND.takeIf { engine.loads >= 5 && engine.calls.last() == "step [5] at 4" } }
        val (cut) = run(engine, exports = listOf(a), plan = long, stop = away)
        assertContains(cut.error!!, "the app went to the background during the sustained run of a")
        assertEquals(listOf(), cut.sustained)
    }

    @Test
    fun theDeviceCoolsDownBeforeEveryTurnAndAStopEndsTheWait() {
        val engine = FakeEngine()
        val waits = mutableListOf<Double>()
        var last = System.nanoTime()
        val say = { _: String ->
            waits.add((System.nanoTime() - last) / 1e9)
            last = System.nanoTime()
        }
        run(engine, plan = plan.copy(repetitions = 1, coolDown = 1), say = say)
        assertEquals(listOf(true, true), waits.map { it >= 1 })
        val begun = System.nanoTime()
        run(engine, plan = plan.copy(coolDown = 3600), stop = { Stop.USER.takeIf { System.nanoTime() - begun > 2e8 } })
    }

    @Test
    fun weightsThatAnExportBringsAreThoseOfTheFirstLaunch() {
        val packed = File(a.directory, "pixel.cache").also { it.writeText("packed elsewhere") }
        val entry = mapOf(
            "file" to "pixel.cache", "profile" to "pixel", "cpu_class" to "a CPU", "runtime" to "1.5.1",
            "pte_sha256" to a.identity.sha256, "sha256" to sha256Of(packed), "bytes" to packed.length(),
        )
        val engine = FakeEngine()
        val export = ExportFolder.open(writeExport(below, "a", changes = mapOf("packed" to listOf(entry))))
        val results = run(engine, exports = listOf(export))[0]
        assertEquals(listOf("load a") + List(6) { "load a packed" }, engine.loaded())
        assertEquals(listOf("the first launch had the packed weights that the export brings"), results.warnings)
    }
}
