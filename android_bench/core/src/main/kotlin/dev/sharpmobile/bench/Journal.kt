// What is left if the system ends the app in the middle: results that say so.
//
// While a launch runs the results' file holds a failure of that launch, and between launches one that says that the
// benchmark did not come to its end, both with what was measured before; results take its place in the end. So on the
// next start nothing has to be guessed, and a reader always finds a file.

package dev.sharpmobile.bench

import java.io.File

object Journal {
    /** Note at a results file's place that a stage begins; soFar: what has been measured. */
    fun begin(path: File, soFar: Results, stage: String) {
        val error = "the system ended the app during $stage of ${soFar.export.name}, most likely for lack of memory; " +
            "free some or share more layers"
        soFar.copy(status = "failed", error = error).write(path)
    }

    /** Note that a stage has ended, and others are to come; what has failed already stays as it is. */
    fun end(path: File, soFar: Results) {
        val error = "the app ended before the benchmark of ${soFar.export.name} came to its end; run it again"
        soFar.copy(status = "failed", error = soFar.error ?: error).write(path)
    }
}
