// On an emulator or in a device farm: runs every export that lies in the app's directory, and the real runtime with it.
//
//     android_bench/on-emulator EXPORT OUT
//
// The instrumentation argument export_dir names other directories, such as what a farm has put into /data/local/tmp.
// The plan's options have the names of Plan.parse: -e threads 2 -e threads_sweep 1,2,performance

package dev.sharpmobile.bench.app

import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Results
import dev.sharpmobile.bench.RunState
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

@RunWith(AndroidJUnit4::class)
class BenchTest {
    private val context = InstrumentationRegistry.getInstrumentation().targetContext
    private val arguments = InstrumentationRegistry.getArguments()

    @Test
    fun everyExportIsMeasured() {
        val directories = directories()
        assertTrue("push an export to ${exportsOf(context)} first", directories.isNotEmpty())
        val results = run(directories)
        for ((directory, found) in directories.zip(results)) {
            assertNull(found.error)
            assertEquals("executorch ${BuildConfig.EXECUTORCH}", found.settings.runtime)
            assertNotNull(found.load.first)
            assertNotNull(found.firstToken.first)
            assertNotNull(found.forward)
            assertNotNull(found.memory?.footprint)
            assertEquals(5, found.likeliest.size)
            assertEquals(found, Results.parse(resultsFile(resultsOf(context), directory).readText()))
        }
    }

    @Test
    fun whatIsNoExportSaysSoInItsFile() {
        val empty = File(context.cacheDir, "empty").also { it.mkdirs() }
        val error = run(listOf(empty)).single().error
        assertTrue("$error", error.orEmpty().contains("it has no manifest.json"))
    }

    private fun directories(): List<File> {
        val given = arguments.getString("export_dir")
        return given?.split(',')?.map { File(it) } ?: ExportFolder.find(exportsOf(context)).exports.map { it.directory }
    }

    /** Small enough for an emulator, unless the arguments ask for more. */
    private fun plan(): Plan {
        val small = mapOf("repetitions" to "2", "prefill" to "128", "decode" to "64", "depths" to "128")
        val given = Plan.NAMES.mapNotNull { name -> arguments.getString(name)?.let { name to it } }
        return Plan.parse(small + given)
    }

    private fun run(directories: List<File>): List<Results> {
        val ended = LinkedBlockingQueue<RunState.Ended>()
        val watcher = { state: RunState -> if (state is RunState.Ended) ended.add(state) }
        assertTrue(BenchProcess.start(context, directories, resultsOf(context), plan()))
        BenchProcess.runs.holder.watch(watcher)
        val state = ended.poll(HOURS, TimeUnit.HOURS)
        BenchProcess.runs.holder.unwatch(watcher)
        assertNotNull("the run did not end", state)
        assertNull(state?.error)
        return state?.results.orEmpty()
    }

    private companion object {
        const val HOURS = 3L
    }
}
