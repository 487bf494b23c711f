// A run in a thread of its own, so that the screen stays alive; the activity and the instrumented test start it.
//
//     files/exports/<name>/                          exports, one directory each
//     files/results/results-android-<name>.json      of each export
//     files/results/status.json                      of the run

package dev.sharpmobile.bench.app

import android.content.Context
import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Results
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Status
import dev.sharpmobile.bench.told
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean

/** The app's own directory on the shared storage, which adb and file managers reach. */
fun filesOf(context: Context): File =
    context.getExternalFilesDir(null) ?: throw Failure("the phone's shared storage is not there; unlock the phone")

fun exportsOf(context: Context) = File(filesOf(context), "exports").also { it.mkdirs() }

fun resultsOf(context: Context) = File(filesOf(context), "results").also { it.mkdirs() }

/** Where an export's results go. */
fun resultsFile(out: File, export: File) = File(out, "results-android-${export.name}.json")

/** out: the directory of the results. say, done: called in the run's thread; done has results, or what went wrong. */
class BenchRun(
    private val context: Context,
    private val directories: List<File>,
    private val out: File,
    private val plan: Plan,
    private val say: (String) -> Unit,
    private val done: (List<Results>, String?) -> Unit,
) {
    private val stopped = AtomicBoolean(false)

    fun start() = Thread(::work, "bench").start()

    /** After the launch that runs now; what has been measured is kept. */
    fun stop() = stopped.set(true)

    private fun work() {
        try {
            done(session().run(directories), null)
        } catch (error: Exception) {
            done(listOf(), told(error))
        } catch (error: LinkageError) {
            val line = "ExecuTorch's library is not there for this CPU: ${told(error)}; build the app for it"
            Status(File(out, "status.json")).failed(line)
            done(listOf(), line)
        }
    }

    private fun session(): Session {
        val probe = DeviceProbe(context)
        return Session(
            plan = plan,
            engine = ExecuTorchEngine(),
            device = probe::device,
            room = probe::room,
            caches = null,
            status = Status(File(out, "status.json")),
            place = { resultsFile(out, it) },
            say = say,
            cancelled = stopped::get,
        )
    }
}
