// The phones' benchmark on a computer:
//
//     java … dev.sharpmobile.bench.jvm.MainKt EXPORT… [--out DIRECTORY] [--repetitions N] [--threads N] [--prefill N]
//         [--decode N]
//
// Writes results-kotlin-NAME.json of each export into the directory, by default the export's own, and status.json.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Room
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Status
import dev.sharpmobile.bench.told
import java.io.File
import kotlin.system.exitProcess

fun main(arguments: Array<String>) {
    try {
        run(arguments.toList())
    } catch (error: Exception) {
        System.err.println("error: ${told(error)}")
        exitProcess(1)
    }
}

private fun run(arguments: List<String>) {
    val options = options(arguments)
    val out = options["out"]?.let(::File)
    val caches = File(System.getProperty("java.io.tmpdir"), "sharp-packed-${ProcessHandle.current().pid()}")
    val session = Session(
        plan = plan(options),
        engine = HostEngine(File(System.getProperty("sharp.engine") ?: throw Failure("-Dsharp.engine=LIBRARY is missing"))),
        device = HostEngine::device,
        room = { Room(caches.absoluteFile.parentFile.usableSpace) },
        caches = caches,
        status = out?.let { Status(File(it, "status.json")) },
        place = { File(out ?: it, "results-kotlin-${it.name}.json") },
        say = ::println,
        cancelled = { false },
    )
    try {
        val found = session.run(arguments.takeWhile { !it.startsWith("--") }.map { File(it).absoluteFile.normalize() })
        found.forEach { it.error?.let { error -> throw Failure(error) } }
    } finally {
        caches.deleteRecursively()
    }
}

/** What follows the directories, in pairs. */
private fun options(arguments: List<String>): Map<String, String> {
    val known = setOf("out", "repetitions", "threads", "prefill", "decode")
    val pairs = arguments.dropWhile { !it.startsWith("--") }.chunked(2)
    for (pair in pairs) {
        if (pair[0].removePrefix("--") !in known) throw Failure("${pair[0]}: no such option; there are ${known.joinToString { "--$it" }}")
        if (pair.size < 2) throw Failure("${pair[0]}: its value is missing")
    }
    return pairs.associate { (name, value) -> name.removePrefix("--") to value }
}

private fun plan(options: Map<String, String>): Plan {
    fun number(name: String, default: Int) = options[name]?.let {
        it.toIntOrNull() ?: throw Failure("--$name $it: write a whole number from 1 on")
    } ?: default
    val plan = Plan()
    return Plan(
        threads = number("threads", plan.threads),
        repetitions = number("repetitions", plan.repetitions),
        prefill = number("prefill", plan.prefill),
        decode = number("decode", plan.decode),
    )
}
