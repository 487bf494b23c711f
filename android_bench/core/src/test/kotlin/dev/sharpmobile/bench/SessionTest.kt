package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class SessionTest {
    private val below = temporary()
    private val out = temporary()
    private val status = File(out, "status.json")
    private val seen = mutableListOf<Pair<Map<*, *>, Results>>()

    private fun state() = Json.parse(status.readText()) as Map<*, *>

    private fun results(name: String) = Results.parse(File(out, "$name.json").readText())

    private fun session(engine: Engine) = Session(
        Plan(repetitions = 1, forwards = 1, prefill = 2, decode = 1), engine, { DEVICE }, { Room(1 shl 20) },
        { Condition(it) }, File(out, "caches"), Status(status), { File(out, "${it.name}.json") },
        { seen.add(state() to results("a")) }, { null },
    )

    @Test
    fun everyExportGetsAFileAndWhatIsNoneToo() {
        File(below, "empty").mkdirs()
        val found = session(FakeEngine()).run(listOf(writeExport(below, "a"), File(below, "empty")))
        assertEquals(found, listOf(results("a"), results("empty")))
        assertEquals(listOf("ok", "failed"), found.map { it.status })
        assertContains(found[1].error!!, "empty: is not an export's directory: it has no manifest.json")
        assertEquals(ExportIdentity("empty", "unknown", "", 0, 0, 0), found[1].export)
        assertEquals(mapOf("state" to "done", "progress" to null, "error" to null), state())
    }

    @Test
    fun whileItRunsTheFilesSayWhatAKilledAppWouldLeave() {
        val killed = object : Engine by FakeEngine() {
            var loads = 0
            override fun load(pte: File, threads: Int, packedCache: File?): LoadedModel {
                if (++loads == 6) assertKilledDuring("the first launch of b", packedCache!!)
                if (packedCache?.exists() == false) packedCache.writeText("packed")
                return FakeEngine().load(pte, threads, null)
            }
        }
        val (a, b) = session(killed).run(listOf(writeExport(below, "a"), writeExport(below, "b")))
        assertEquals(listOf(null, null), listOf(a.error, b.error))
        assertEquals(listOf("running", "running"), seen.map { it.first["state"] })
        assertEquals(listOf<Any?>("repetition 1 of 1: a", "repetition 1 of 1: b"), seen.map { it.first["progress"] })
        assertEquals(mapOf("state" to "done", "progress" to null, "error" to null), state())
        assertEquals(listOf("ok", "ok"), listOf(results("a").status, results("b").status))
    }

    private fun assertKilledDuring(stage: String, packed: File) {
        assertEquals(false, packed.exists())
        assertContains(results("b").error!!, "the system ended the app during $stage, most likely")
        assertContains(results("a").error!!, "the app was ended before a was measured")
    }

    @Test
    fun aWrongListIsToldInTheStatus() {
        val twice = listOf(File("x/a"), File("y/a"))
        for ((directories, problem) in mapOf(listOf<File>() to "no export is named", twice to "a: is named twice")) {
            assertContains(assertFailsWith<Failure> { session(FakeEngine()).run(directories) }.message!!, problem)
            assertContains(state()["error"] as String, problem)
        }
    }
}
