// One run from directories to results files: the app's screen, a start without hands and a command line share it.
//
//     directories ── open ──► exports ── BenchProtocol ──► results, each in its file
//                      │                      │
//                      └─ broken: failed      └─ Journal and Status at every stage

package dev.sharpmobile.bench

import java.io.File
import java.util.concurrent.CopyOnWriteArrayList

/**
 * The run's state for the driver: {"state": "running", "progress": "repetition 2 of 5: name", "error": null}.
 * Failed is a run that could not be done at all; an export that failed says so in its results.
 */
class Status(private val path: File) {
    fun running(progress: String) = write("running", progress, null)

    fun done() = write("done", null, null)

    fun failed(error: String) = write("failed", null, error)

    private fun write(state: String, progress: String?, error: String?) =
        replaceText(path, Json.write(linkedMapOf("state" to state, "progress" to progress, "error" to error)))
}

/** place: where an export's directory has its results file. status: null for none. say: gets each line of progress. */
class Session(
    private val plan: Plan,
    private val engine: Engine,
    private val device: () -> Device,
    private val room: () -> Room,
    private val condition: (Double) -> Condition,
    private val caches: File?,
    private val status: Status?,
    private val place: (File) -> File,
    private val say: (String) -> Unit,
    private val stop: () -> Stop?,
) {
    private val journals = CopyOnWriteArrayList<Journal>()

    /** Run exports; results in the directories' order, those of what is no export among them. */
    fun run(directories: List<File>): List<Results> {
        try {
            refuse(directories)
            status?.running("opening")
            val opened = directories.map(::open)
            val exports = opened.mapNotNull { it.getOrNull() }
            val measured = BenchProtocol.run(exports, plan, engine, surroundings(), ::report, stop).iterator()
            val results = directories.zip(opened).map { (directory, export) ->
                export.fold({ measured.next() }, { unreadable(directory, told(it)) })
            }
            status?.done()
            return results
        } catch (error: Throwable) {
            status?.failed(told(error))
            throw error
        }
    }

    /** The app has left the screen: the file of the launch that is under way says so at once. */
    fun interrupted() = journals.forEach { it.interrupted() }

    private fun refuse(directories: List<File>) {
        if (directories.isEmpty()) throw Failure("no export is named; name a directory with a manifest.json")
        val twice = directories.groupBy { it.name }.values.firstOrNull { it.size > 1 } ?: return
        throw Failure("${twice.first().name}: is named twice; name it once, or rename one of them")
    }

    private fun open(directory: File): Result<ExportFolder> = try {
        Result.success(ExportFolder.open(directory))
    } catch (failure: Failure) {
        Result.failure(failure)
    }

    private fun surroundings() =
        Place(device, room, condition, caches) { Journal(place(it.directory)).also(journals::add) }

    private fun report(line: String) {
        status?.running(line)
        say(line)
    }

    /** Failed results of what is no export, in their file too. */
    private fun unreadable(directory: File, error: String): Results {
        val settings = Settings(engine.harness, engine.runtime, plan.threads, engine.weightCache, engine.packedCache)
        val export = ExportFolder.unreadable(directory)
        val results = Results(now(), device = device(), export = export, settings = settings)
        return results.failed(error).also { it.write(place(directory)) }
    }
}
