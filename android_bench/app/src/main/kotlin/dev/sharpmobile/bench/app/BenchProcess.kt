// What lives as long as the process, outside the screens: the run, and the chat's model.

package dev.sharpmobile.bench.app

import android.content.Context
import android.os.Build
import android.os.Debug
import dev.sharpmobile.bench.LinuxFiles
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Status
import java.io.File

object BenchProcess {
    private val model = OneModel()
    val runs = Runs(model)
    val conversation = Conversation(model, ::LlmGenerator)

    /** Results files of the latest run. */
    @Volatile var files: List<File> = listOf()
        private set

    /** Begin a run whose results go to `out`; false if one is under way. A Failure while the chat has a model. */
    fun start(context: Context, directories: List<File>, out: File, plan: Plan): Boolean {
        val probe = DeviceProbe(context.applicationContext)
        val begun = runs.start(directories) { say, stop ->
            Session(
                plan = plan,
                engine = engine(),
                device = probe::device,
                room = probe::room,
                condition = probe::condition,
                caches = null,
                status = Status(statusFile(out)),
                place = { resultsFile(out, it) },
                say = say,
                stop = stop,
            )
        }
        if (begun) files = directories.map { resultsFile(out, it) }
        return begun
    }

    private fun engine() =
        ExecuTorchEngine("android", "executorch ${BuildConfig.EXECUTORCH}", Build.SUPPORTED_ABIS[0]) {
            LinuxFiles().memory(footprint = Debug.getPss() * 1024)
        }
}
