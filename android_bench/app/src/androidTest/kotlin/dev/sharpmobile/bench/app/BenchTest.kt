// On an emulator or in a device farm: runs every export that lies in the app's directory, and the real runtime with it.
//
//     android_bench/on-emulator EXPORT OUT
//
// The instrumentation argument export_dir names other directories, such as what a farm has put into /data/local/tmp.

package dev.sharpmobile.bench.app

import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Results
import java.io.File
import java.util.concurrent.CountDownLatch
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

    @Test
    fun everyExportIsMeasured() {
        val directories = directories()
        assertTrue("push an export to ${exportsOf(context)} first", directories.isNotEmpty())
        val results = run(directories)
        for ((directory, found) in directories.zip(results)) {
            assertNull(found.error)
            assertEquals("executorch ${BuildConfig.EXECUTORCH}", found.settings.runtime)
            assertNotNull(found.load.first)
            assertNotNull(found.forward)
            assertEquals(5, found.likeliest.size)
            assertEquals(found, Results.parse(resultsFile(resultsOf(context), directory).readText()))
        }
    }

    @Test
    fun whatIsNoExportIsToldInItsFile() {
        val empty = File(context.cacheDir, "empty").also { it.mkdirs() }
        val error = run(listOf(empty)).single().error
        assertTrue("$error", error.orEmpty().contains("it has no manifest.json"))
    }

    private fun directories(): List<File> {
        val given = InstrumentationRegistry.getArguments().getString("export_dir")
        return given?.split(',')?.map { File(it) } ?: ExportFolder.find(exportsOf(context)).exports.map { it.directory }
    }

    private fun run(directories: List<File>): List<Results> {
        val ended = CountDownLatch(1)
        var found = listOf<Results>()
        var wrong: String? = null
        val done = { results: List<Results>, error: String? ->
            found = results
            wrong = error
            ended.countDown()
        }
        BenchRun(context, directories, resultsOf(context), Plan(repetitions = 2), {}, done).start()
        assertTrue("the run did not end", ended.await(30, TimeUnit.MINUTES))
        assertNull(wrong)
        return found
    }
}
