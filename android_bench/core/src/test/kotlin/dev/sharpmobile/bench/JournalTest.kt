package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals

class JournalTest {
    private val path = File(temporary(), "results.json")
    private val journal = Journal(path)
    private val measured = example().copy(status = "ok", error = null)

    private fun error() = Results.parse(path.readText()).error

    @Test
    fun theFileSaysWhatEndedTheApp() {
        journal.begin(measured, "a later launch")
        assertContains(error()!!, "the system ended the app during a later launch of tiny, most likely for lack of")
        journal.interrupted()
        assertContains(error()!!, "the app went to the background during a later launch of tiny, which is not counted")
        assertEquals(measured, Results.parse(path.readText()).copy(status = "ok", error = null))
    }

    @Test
    fun anAppInTheBackgroundChangesNothingBetweenLaunches() {
        journal.interrupted()
        assertEquals(false, path.exists())
        journal.begin(measured, "a later launch")
        journal.pause(measured)
        journal.interrupted()
        assertEquals("the app was ended before tiny was measured to its end; run it again", error())
        journal.begin(measured, "the sustained run")
        journal.finish(measured)
        journal.interrupted()
        assertEquals(null, error())
    }

    @Test
    fun aFileThatCannotBeWrittenDoesNotEndTheAppInTheBackground() {
        journal.begin(measured, "a later launch")
        path.delete()
        File(path, "in the way").mkdirs() // a directory that no file can replace
        journal.interrupted()
        assertEquals(true, path.isDirectory)
    }
}
