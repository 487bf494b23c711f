// The results of several exports as lines, each with its ratio to the first.

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.Results
import dev.sharpmobile.bench.Statistics
import java.util.Locale

private class Row(val name: String, val unit: String, val value: (Results) -> Double?)

private val ROWS = listOf(
    Row("file", "MB") { it.export.fileBytes / 1e6 },
    Row("load, first", "ms") { it.load.first?.let { load -> 1e3 * Statistics.median(load.seconds) } },
    Row("forward", "ms") { it.forward?.let { forward -> 1e3 * Statistics.median(forward.seconds) } },
    Row("prefill", "tokens/s") { it.prefill?.let(Statistics::tokensPerSecond) },
    Row("decode", "tokens/s") { it.decode?.let(Statistics::tokensPerSecond) },
    Row("memory, own", "MB") { it.memory?.let { memory -> memory.anonymous / 1e6 } },
    Row("memory, files", "MB") { it.memory?.let { memory -> memory.file / 1e6 } },
    Row("memory, most", "MB") { it.memory?.let { memory -> memory.peak / 1e6 } },
)

/** A block of lines for each export: failures and warnings with it. */
fun table(results: List<Results>): String = results.joinToString("\n") { one ->
    val lines = mutableListOf("${one.export.name} (plan ${one.export.plan})")
    one.error?.let { lines.add("  failed: $it") }
    for (row in ROWS) {
        val value = row.value(one) ?: continue
        val first = if (one === results.first()) null else row.value(results.first())
        val ratio = if (first == null || first == 0.0) "" else "  ×%.2f".format(Locale.ROOT, value / first)
        lines.add("  %-14s %10.2f %s%s".format(Locale.ROOT, row.name, value, row.unit, ratio))
    }
    one.warnings.forEach { lines.add("  warning: $it") }
    lines.joinToString("\n", postfix = "\n")
}
