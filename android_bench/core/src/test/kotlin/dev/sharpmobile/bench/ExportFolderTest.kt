package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class ExportFolderTest {
    private val below = temporary()

    @Test
    fun aManifestIsRead() {
        val export = ExportFolder.open(writeExport(below, "tiny"))
        val bytes = export.pte.length()
        assertEquals(ExportIdentity("tiny", "2:3", sha256Of(export.pte), bytes, 10, bytes + 4, 0.25), export.identity)
        assertEquals(listOf(16, 4), listOf(export.length, export.longestStep))
        assertEquals(listOf(1L, 2, 3), export.prompt)
        assertEquals(listOf(4L, 5, 6), export.expectedTokens)
        assertEquals(listOf(99L), export.stop)
        export.checkHash()
        export.checkRuntime("executorch 1.5.1")
        export.checkRuntime("executorch 1.5.0")
    }

    @Test
    fun oneStepTakesOneLessThanTheCacheUnlessTheManifestSaysLess() {
        val metadata = mapOf("get_max_context_len" to 16)
        val export = ExportFolder.open(writeExport(below, "old", changes = mapOf("metadata" to metadata)))
        assertEquals(15, export.longestStep)
    }

    @Test
    fun anotherRuntimeIsRefused() {
        val export = ExportFolder.open(writeExport(below, "new", "1.9.0"))
        val problem = "new: was exported for executorch 1.9.0, this app has executorch 1.5.1; " +
            "export it again with executorch 1.5.1"
        assertEquals(problem, assertFailsWith<Failure> { export.checkRuntime("executorch 1.5.1") }.message)
    }

    @Test
    fun anotherProgramIsRefused() {
        val export = ExportFolder.open(writeExport(below, "tiny"))
        export.pte.writeText("another program")
        assertFailsWith<Failure> { ExportFolder.open(export.directory) } // another size
        export.pte.writeText("THE program of tiny")
        val failure = assertFailsWith<Failure> { ExportFolder.open(export.directory).checkHash() }
        assertContains(failure.message!!, "is not the file of its manifest")
    }

    @Test
    fun whatIsBrokenIsListedWithItsReason() {
        writeExport(below, "b")
        writeExport(below, "a")
        File(below, "empty").mkdirs()
        File(below, "file").writeText("")
        File(writeExport(below, "gone"), "model.pte").delete()
        File(writeExport(below, "half"), "manifest.json").writeText("{\"format_version\": 1, ")
        writeExport(below, "future", changes = mapOf("format_version" to 2))
        writeExport(below, "long", changes = mapOf("metadata" to mapOf("get_max_context_len" to 3)))
        val found = ExportFolder.find(below)
        assertEquals(listOf("a", "b"), found.exports.map { it.name })
        val reasons = mapOf(
            "empty" to "it has no manifest.json", "future" to "is of format 2", "gone" to "model.pte: is missing",
            "half" to "is not a whole manifest", "long" to "prompt of 3 tokens does not fit",
        )
        assertEquals(reasons.keys.toList(), found.broken.map { it.first })
        for ((name, reason) in found.broken) assertContains(reason, reasons.getValue(name))
        assertEquals(listOf(), ExportFolder.find(File(below, "nowhere")).exports)
    }
}
