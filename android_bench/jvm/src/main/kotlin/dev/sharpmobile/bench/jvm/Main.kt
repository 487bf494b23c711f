// The phones' benchmark on a computer:
//
//     java -Dsharp.engine=LIBRARY … dev.sharpmobile.bench.jvm.MainKt EXPORT… [--out DIRECTORY] [--caches DIRECTORY]
//         [--engine host|app] [--threads N] [--repetitions N] [--prefill N] [--decode N] [--depths N,N…|none]
//         [--threads-sweep N,N…] [--sustain SECONDS] [--cool-down SECONDS]
//
// Writes results-HARNESS.json into each export, or, with --out, results-HARNESS-NAME.json and status.json there.
// HARNESS is kotlin-jvm; with --engine app, which runs the Android app's engine, it is kotlin-app. Progress goes to
// standard error, the files' names to standard output.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Engine
import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.LinuxFiles
import dev.sharpmobile.bench.Room
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Status
import dev.sharpmobile.bench.app.ExecuTorchEngine
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
    System.load(File(library).absolutePath)
    val engine = engine(options.engine)
    val session = Session(
        plan = options.plan,
        engine = engine,
        device = ThisMachine::device,
        room = { Room(File(".").absoluteFile.usableSpace) },
        condition = ThisMachine::condition,
        caches = options.caches,
        status = options.out?.let { Status(File(it, "status.json")) },
        place = { options.resultsFile(engine.harness, it) },
        say = System.err::println,
        stop = { null },
    )
    val results = session.run(options.exports)
    for ((export, found) in options.exports.zip(results)) {
        println(options.resultsFile(engine.harness, export))
        found.error?.let { System.err.println("error: $it") }
    }
    if (results.any { it.error != null }) exitProcess(1)
}

private fun engine(name: String): Engine = when (name) {
    "host" -> HostEngine()
    "app" -> ExecuTorchEngine("kotlin-app", EngineJni.runtime(), HostEngine().cpuClass, LinuxFiles()::memory)
    else -> throw Failure("--engine $name: choose host or app")
}
