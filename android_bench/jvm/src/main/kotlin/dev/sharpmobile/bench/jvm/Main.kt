// The phones' benchmark on a computer:
//
//     java … dev.sharpmobile.bench.jvm.MainKt EXPORT… [--out DIRECTORY] [--caches DIRECTORY] [--repetitions N]
//         [--threads N] [--prefill N] [--decode N]
//
// Writes results-kotlin-jvm.json into each export, or, with --out, results-kotlin-jvm-NAME.json and status.json there.
// Progress goes to standard error, the files' names to standard output.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Room
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Status
import dev.sharpmobile.bench.told
import java.io.File
import kotlin.system.exitProcess

fun main(arguments: Array<String>) {
    try {
        run(Options(arguments.toList()))
    } catch (error: Exception) {
        System.err.println("error: ${told(error)}")
        exitProcess(1)
    }
}

private fun run(options: Options) {
    val library = System.getProperty("sharp.engine") ?: throw Failure("-Dsharp.engine: must name the library")
    val session = Session(
        plan = options.plan,
        engine = HostEngine(File(library)),
        device = HostEngine::device,
        room = { Room(File(".").absoluteFile.usableSpace) },
        caches = options.caches,
        status = options.out?.let { Status(File(it, "status.json")) },
        place = options::resultsFile,
        say = System.err::println,
        cancelled = { false },
    )
    val results = session.run(options.exports)
    for ((export, found) in options.exports.zip(results)) {
        println(options.resultsFile(export))
        found.error?.let { System.err.println("error: $it") }
    }
    if (results.any { it.error != null }) exitProcess(1)
}
