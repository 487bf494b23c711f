// The results of several exports as lines, each with its ratio to the first one.

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.Memory
import dev.sharpmobile.bench.Results
import dev.sharpmobile.bench.Samples
import dev.sharpmobile.bench.Statistics
import dev.sharpmobile.bench.TokenSamples
import java.util.Locale

private const val SPARKLINE_WIDTH = 20

/** note: what stands after the number. */
private class Row(val name: String, val value: Double, val note: String = "")

/** A block of lines for each export, with failures and warnings. */
fun table(results: List<Results>): String {
    val first = results.firstOrNull()?.let(::rows).orEmpty().associate { it.name to it.value }
    return results.withIndex().joinToString("\n") { (index, one) ->
        val lines = mutableListOf("${one.export.name} (plan ${one.export.plan})")
        one.error?.let { lines.add("  failed: $it") }
        for (row in rows(one)) {
            val base = if (index == 0) null else first[row.name]?.takeIf { it != 0.0 }
            val ratio = base?.let { "  ×%.2f".format(Locale.ROOT, row.value / it) }.orEmpty()
            lines.add("  %-36s %10.2f%s%s".format(Locale.ROOT, row.name, row.value, ratio, row.note))
        }
        one.warnings.forEach { lines.add("  warning: $it") }
        lines.joinToString("\n", postfix = "\n")
    }
}

private fun rows(results: Results): List<Row> = buildList {
    val speed = "tokens/s"
    add(Row(".pte, MB", megabytes(results.export.fileBytes)))
    milliseconds("first load, ms", results.load.first)
    milliseconds("later load, ms", results.load.later)
    milliseconds("first token, first launch, ms", results.firstToken.first)
    milliseconds("first token, later launch, ms", results.firstToken.later)
    milliseconds("forward, ms", results.forward)
    results.prefill?.let { add(Row("prefill (pp${it.tokens}), $speed", Statistics.tokensPerSecond(it))) }
    results.decode?.let { add(Row("decode (tg${it.tokens}), $speed", Statistics.tokensPerSecond(it))) }
    results.tokenLatency?.seconds?.let {
        add(Row("decode p50, ms", 1e3 * Statistics.percentile(it, 0.5)))
        add(Row("decode p90, ms", 1e3 * Statistics.percentile(it, 0.9)))
    }
    for (one in results.decodeAtDepth) {
        val samples = TokenSamples(one.seconds, one.tokens)
        add(Row("decode at depth ${one.depth}, $speed", Statistics.tokensPerSecond(samples)))
    }
    for (one in results.threadsSweep) {
        add(Row("threads: ${one.threads}, decode $speed", Statistics.tokensPerSecond(one.decode)))
    }
    if (results.sustained.isNotEmpty()) {
        val windows = results.sustained
        val line = Statistics.sparkline(windows.map { it.tokens / it.seconds }, SPARKLINE_WIDTH)
        add(Row("sustained, $speed", windows.sumOf { it.tokens } / windows.sumOf { it.seconds }, "  $line"))
    }
    results.memory?.let(::memory)
    results.idleMemory?.footprint?.let { add(Row("idle footprint, MB", megabytes(it))) }
}

private fun MutableList<Row>.milliseconds(name: String, samples: Samples?) {
    samples?.let { add(Row(name, 1e3 * Statistics.median(it.seconds))) }
}

private fun MutableList<Row>.milliseconds(name: String, samples: TokenSamples?) =
    milliseconds(name, samples?.let { Samples(it.seconds) })

private fun MutableList<Row>.memory(memory: Memory) {
    add(Row("anonymous, MB", megabytes(memory.anonymous)))
    add(Row("files, MB", megabytes(memory.file)))
    add(Row("peak, MB", megabytes(memory.peak)))
    memory.footprint?.let { add(Row("footprint, MB", megabytes(it))) }
    memory.footprintPeak?.let { add(Row("footprint peak, MB", megabytes(it))) }
}

private fun megabytes(bytes: Long) = bytes / 1e6
