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
    private val plan = Plan(repetitions = 2, forwards = 2, prefill = 6, decode = 2)
    private val a = ExportFolder.open(writeExport(below, "a"))
    private val b = ExportFolder.open(writeExport(below, "b"))

    private fun run(
        engine: Engine, place: Place = place(caches), exports: List<ExportFolder> = listOf(a, b),
        cancelled: () -> Boolean = { false },
    ) = BenchProtocol.run(exports, plan, engine, place, {}, cancelled)

    @Test
    fun exportsAlternateAndStepsAreTheRunners() {
        val engine = FakeEngine()
        val lines = mutableListOf<String>()
        val found = BenchProtocol.run(listOf(a, b), plan, engine, place(caches), { lines.add(it.line) }, { false })
        assertEquals((1..2).flatMap { listOf("repetition $it of 2: a", "repetition $it of 2: b") }, lines)
        val repetition = listOf("load a packs", "load a kept", "load b packs", "load b kept")
        val loads = engine.calls.filter { it.startsWith("load") }
        assertEquals(listOf("load a", "load b") + repetition + repetition, loads)
        val later = listOf(
            "step [1, 2, 3] at 0",                          // the prompt
            "step [4] at 3", "step [4] at 3", "step [4] at 3", // a warm-up and two forwards
            "step [1, 2, 3, 1] at 0", "step [2, 3] at 4",      // a prefill of six in steps of at most four
            "step [1, 2, 3] at 0", "step [4] at 3", "step [5] at 4", // decode two
        )
        val start = engine.calls.indexOf("load a kept") + 1
        assertEquals(later, engine.calls.subList(start, start + later.size))
        assertEquals(0, engine.open)
        for ((export, results) in listOf(a, b).zip(found)) check(export, results)
    }

    private fun check(export: ExportFolder, results: Results) {
        assertEquals(listOf("ok", null, listOf<String>()), listOf(results.status, results.error, results.warnings))
        assertEquals(export.identity, results.export)
        assertEquals(Settings("fake", "executorch 1.5.1", 1, true, true), results.settings)
        val samples = listOf(results.load.first, results.load.later, results.forward)
        assertEquals(listOf(2, 2, 4), samples.map { it?.seconds?.size })
        assertEquals(listOf(6, 2), listOf(results.prefill?.tokens, results.decode?.tokens))
        assertEquals(Memory(101, 50, 151), results.memory)
        assertEquals(listOf(4L, 0, 1, 2, 3), results.likeliest.map { it.token })
        assertEquals(listOf(4L, 5, 6), results.tokens)
        assertEquals(results, Results.parse(results.toJson()))
    }

    @Test
    fun withoutPackedWeightsEveryLaunchIsAFirstOne() {
        val engine = FakeEngine(packedCache = false, limits = listOf("it cannot keep them"))
        val results = run(engine)[0]
        assertNull(results.load.later)
        assertEquals(false, results.settings.packedCache)
        assertEquals(listOf("it cannot keep them"), results.warnings)
        assertEquals(List(10) { true }, engine.calls.filter { it.startsWith("load") }.map { it.length == 6 })
        assertNull(caches.list())
    }

    @Test
    fun aFailureKeepsWhatWasMeasuredAndTheOthersGoOn() {
        val (failed, whole) = run(FakeEngine(failsAt = 7)) // a's first launch in the second repetition
        assertEquals(listOf("failed", "the runtime said no"), listOf(failed.status, failed.error))
        val samples = listOf(failed.load.first, failed.load.later, failed.forward)
        assertEquals(listOf(1, 1, 2), samples.map { it?.seconds?.size })
        assertEquals(listOf("ok", 2), listOf(whole.status, whole.load.later?.seconds?.size))
    }

    @Test
    fun whatCannotRunIsToldBeforeItIsLoaded() {
        val other = ExportFolder.open(writeExport(below, "other", "1.9.0"))
        val damaged = ExportFolder.open(writeExport(below, "damaged"))
        damaged.pte.writeText("THE program of damaged")
        val copied = File(below, "copy").also { a.directory.copyRecursively(it) }
        val copy = ExportFolder.open(copied)
        val engine = FakeEngine()
        val found = run(engine, exports = listOf(a, other, damaged, copy))
        assertNull(found[0].error)
        val told = listOf("was exported for executorch 1.9.0", "is not the file of its manifest", "the same export as a")
        for ((results, error) in found.drop(1).zip(told)) assertContains(assertNotNull(results.error), error)
        assertEquals(setOf("load a"), engine.calls.filter { it.startsWith("load") }.map { it.take(6) }.toSet())
        val full = run(engine, place(caches, room = Room(5)))[0]
        assertContains(full.error!!, "bytes of disk for packed weights, 5 are free")
        val low = run(FakeEngine(packedCache = false), place(null, room = Room(0, 5)))[0]
        assertContains(low.error!!, "bytes of memory for packed weights, the system gives 5")
    }

    @Test
    fun aHotDeviceAndStrangeTokensAreWarnedOf() {
        val expected = mapOf("prompt_tokens" to listOf(1), "tokens" to listOf(2, 7, 4))
        val strange = ExportFolder.open(writeExport(below, "c", changes = mapOf("expected" to expected)))
        val warnings = run(FakeEngine(), place(caches, "severe"), listOf(strange))[0].warnings
        assertEquals(2, warnings.size)
        assertContains(warnings[0], "throttled: the device was severe")
        val part = "greedy tokens part from the manifest's at position"
        assertEquals("$part 1 of 3; kernels of another CPU round differently", warnings[1])
        val likeliest = listOf(Likely(2, 1.5), Likely(7, 1.25))
        val told = mapOf(
            listOf(7L, 4L) to "$part 0 of 2; kernels of another CPU round differently, " +
                "and here the manifest's token is 0.25 behind in logits",
            listOf(8L, 4L) to "$part 0 of 2; a first token that is not even among the likeliest means another model",
            listOf(2L, 4L) to "$part 1 of 2; kernels of another CPU round differently",
        )
        for ((manifest, warning) in told) {
            assertEquals(listOf(warning), BenchProtocol.divergenceWarnings(listOf(2, 3), manifest, likeliest))
        }
        val short = BenchProtocol.divergenceWarnings(listOf(2), listOf(2, 3), likeliest)
        assertEquals(listOf("$part 1 of 2; kernels of another CPU round differently"), short)
    }

    @Test
    fun whoStopsItGetsWhatWasMeasured() {
        var asked = 0
        val found = run(FakeEngine(), cancelled = { ++asked > 3 })
        assertEquals(listOf(1, 0).map { "stopped after $it of 2 repetitions; run it again" }, found.map { it.error })
        assertNotNull(found[0].forward)
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
        assertEquals(listOf("load a") + List(4) { "load a kept" }, engine.calls.filter { it.startsWith("load") })
        assertEquals(listOf("the first launch had the packed weights that the export brings"), results.warnings)
    }
}
