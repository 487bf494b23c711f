// The command line: directories of exports, then options with their values.

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Plan
import java.io.File

private val KNOWN = setOf("out", "caches", "repetitions", "threads", "prefill", "decode")

class Options(arguments: List<String>) {
    val exports: List<File> = arguments.takeWhile { !it.startsWith("--") }.map { File(it).absoluteFile.normalize() }
    private val values = arguments.drop(exports.size).chunked(2).associate(::pair)
    val out: File? = values["out"]?.let(::File)
    val caches = File(values["caches"] ?: "build/phones/packed")
    val plan = Plan().let {
        it.copy(
            threads = number("threads", it.threads),
            repetitions = number("repetitions", it.repetitions),
            prefill = number("prefill", it.prefill),
            decode = number("decode", it.decode),
        )
    }

    /** Where an export's results go. */
    fun resultsFile(export: File): File =
        out?.let { File(it, "results-kotlin-jvm-${export.name}.json") } ?: File(export, "results-kotlin-jvm.json")

    private fun pair(given: List<String>): Pair<String, String> {
        val option = given[0].removePrefix("--")
        if (option !in KNOWN) throw Failure("${given[0]}: is no option; there are ${KNOWN.joinToString { "--$it" }}")
        return option to (given.getOrNull(1) ?: throw Failure("${given[0]}: needs a value"))
    }

    private fun number(option: String, default: Int): Int {
        val value = values[option] ?: return default
        return value.toIntOrNull() ?: throw Failure("--$option $value: write a whole number from 1 on")
    }
}
