// One run from directories to results files: what the app's screen, a start without hands and a command line share.
//
//     directories ── open ──► exports ── Protocol ──► results, each in its file
//                      │                    │
//                      └─ broken: failed    └─ Journal and Status at every stage

package dev.sharpmobile.bench

import java.io.File

/** The run's state for whoever waits: {"state": "running", "progress": "repetition 2 of 5: name", "error": null}. */
class Status(private val path: File) {
    fun running(progress: String) = write("running", progress, null)

    fun done() = write("done", null, null)

    fun failed(error: String) = write("failed", null, error)

    private fun write(state: String, progress: String?, error: String?) =
        replaceText(path, Json.write(linkedMapOf("state" to state, "progress" to progress, "error" to error)))
}

/** status: null for none. say: told every line of progress. See Protocol for the others. */
class Session(
    private val plan: Plan,
    private val engine: Engine,
    private val device: () -> Device,
    private val caches: File?,
    private val status: Status?,
    private val check: (ExportFolder) -> Unit = {},
    private val cancelled: () -> Boolean = { false },
    private val say: (String) -> Unit = {},
) {
    /** Run exports; place: where an export's directory has its results file. Results in the directories' order. */
    fun run(directories: List<File>, place: (File) -> File): List<Results> {
        try {
            val results = measured(directories, place)
            for ((directory, result) in directories.zip(results)) result.write(place(directory))
            val error = results.firstNotNullOfOrNull { it.error }
            if (error == null) status?.done() else status?.failed(error)
            return results
        } catch (error: Exception) {
            status?.failed(told(error))
            throw error
        }
    }

    private fun measured(directories: List<File>, place: (File) -> File): List<Results> {
        val exports = mutableListOf<ExportFolder>()
        val results = mutableMapOf<File, Results>()
        for (directory in directories) {
            try {
                exports.add(ExportFolder.open(directory))
            } catch (failure: Failure) {
                results[directory] = unreadable(directory, failure)
            }
        }
        refuseTwice(directories, exports)
        val protocol = Protocol(plan, engine, device, caches, check, { note(it, exports, place) }, cancelled)
        for ((export, result) in exports.zip(protocol.run(exports))) results[export.directory] = result
        return directories.map(results::getValue)
    }

    private fun note(progress: Progress, exports: List<ExportFolder>, place: (File) -> File) {
        val path = place(exports.first { it.identity == progress.soFar.export }.directory)
        if (progress.stage == null) {
            Journal.end(path, progress.soFar)
        } else {
            say(progress.line)
            status?.running(progress.line)
            Journal.begin(path, progress.soFar, progress.stage)
        }
    }

    private fun unreadable(directory: File, failure: Failure) = Results(
        created = Results.now(),
        status = "failed",
        error = told(failure),
        device = device(),
        export = ExportFolder.unreadable(directory),
        settings = Settings(engine.harness, engine.runtime, plan.threads, engine.weightCache, engine.packedCache),
    )

    private fun refuseTwice(directories: List<File>, exports: List<ExportFolder>) {
        if (directories.isEmpty()) throw Failure("no export is named; name a directory with a manifest.json")
        twice(directories.map { it.name })?.let {
            throw Failure("$it: is named twice; name it once, or give the directories different names")
        }
        twice(exports.map { it.identity.sha256 })?.let { sha256 ->
            val same = exports.filter { it.identity.sha256 == sha256 }.joinToString { it.directory.name }
            throw Failure("$same: are the same export; name it once")
        }
    }

    private fun twice(values: List<String>): String? = values.groupBy { it }.values.firstOrNull { it.size > 1 }?.first()
}
