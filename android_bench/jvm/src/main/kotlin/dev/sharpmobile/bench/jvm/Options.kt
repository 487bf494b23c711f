// The command line: directories of exports, then options with their values.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Plan
import java.io.File

/** engine: "host", or "app" for the Android app's. The plan's options are Plan.parse's, such as --cool-down 3. */
class Options(arguments: List<String>) {
    val exports: List<File> = arguments.takeWhile { !it.startsWith("--") }.map { File(it).absoluteFile.normalize() }
    private val values = arguments.drop(exports.size).chunked(2).associate(::pair)
    val out: File? = values["out"]?.let(::File)
    val caches = File(values["caches"] ?: "build/phones/packed")
    val engine: String = values["engine"] ?: "host"
    val plan = Plan.parse(values - setOf("out", "caches", "engine"))

    /** Where an export's results go. */
    fun resultsFile(harness: String, export: File): File =
        out?.let { File(it, "results-$harness-${export.name}.json") } ?: File(export, "results-$harness.json")

    private fun pair(given: List<String>): Pair<String, String> {
        val value = given.getOrNull(1) ?: throw Failure("${given[0]}: needs a value")
        return given[0].removePrefix("--").replace('-', '_') to value
    }
}
