package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.DepthSamples
import dev.sharpmobile.bench.Device
import dev.sharpmobile.bench.ExportIdentity
import dev.sharpmobile.bench.FirstToken
import dev.sharpmobile.bench.Load
import dev.sharpmobile.bench.Memory
import dev.sharpmobile.bench.Results
import dev.sharpmobile.bench.Samples
import dev.sharpmobile.bench.Settings
import dev.sharpmobile.bench.ThreadsSamples
import dev.sharpmobile.bench.TokenSamples
import dev.sharpmobile.bench.Window
import org.junit.Assert.assertEquals
import org.junit.Test

class TableTest {
    private val bare = Results(
        created = "now",
        device = Device("android", "a phone", "Android", "a CPU", 8),
        export = ExportIdentity("unshared", "none", "", 8_000_000, 0, 0),
        settings = Settings("android", "executorch 1.5.1", 1, weightCache = true, packedCache = false),
    )
    private val full = bare.copy(
        export = ExportIdentity("shared", "2:3", "", 4_000_000, 0, 0),
        load = Load(Samples(listOf(2.0)), Samples(listOf(1.0))),
        firstToken = FirstToken(TokenSamples(listOf(2.5), 8), TokenSamples(listOf(1.5), 8)),
        forward = Samples(listOf(0.25)),
        prefill = TokenSamples(listOf(2.0), 512),
        decode = TokenSamples(listOf(8.0), 128),
        tokenLatency = Samples(listOf(0.1, 0.2)),
        decodeAtDepth = listOf(DepthSamples(512, listOf(2.0), 64)),
        threadsSweep = listOf(ThreadsSamples(2, TokenSamples(listOf(1.0), 8), TokenSamples(listOf(2.0), 10))),
        sustained = listOf(Window(1.0, 20, 1.0), Window(2.0, 10, 1.0)),
        memory = Memory(1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000),
        idleMemory = Memory(0, 0, 0, 6_000_000),
        warnings = listOf("w"),
    )

    /** A line as words. */
    private fun words(results: List<Results>) = table(results).lines().map { it.trim().replace(Regex(" +"), " ") }

    @Test
    fun everyNumberHasItsRow() {
        val expected = listOf(
            "shared (plan 2:3)", ".pte, MB 4.00", "first load, ms 2000.00", "later load, ms 1000.00",
            "first token, first launch, ms 2500.00", "first token, later launch, ms 1500.00", "forward, ms 250.00",
            "prefill (pp512), tokens/s 256.00", "decode (tg128), tokens/s 16.00", "decode p50, ms 150.00",
            "decode p90, ms 190.00", "decode at depth 512, tokens/s 32.00", "threads: 2, decode tokens/s 5.00",
            "sustained, tokens/s 15.00 █▅", "anonymous, MB 1.00", "files, MB 2.00", "peak, MB 3.00",
            "footprint, MB 4.00", "footprint peak, MB 5.00", "idle footprint, MB 6.00", "warning: w", "",
        )
        assertEquals(expected, words(listOf(full)))
    }

    @Test
    fun whatWasNotMeasuredHasNoRowAndRatiosAreToTheFirst() {
        val lines = words(listOf(bare.failed("it was hot"), full))
        assertEquals(listOf("unshared (plan none)", "failed: it was hot", ".pte, MB 8.00", ""), lines.take(4))
        assertEquals(listOf("shared (plan 2:3)", ".pte, MB 4.00 ×0.50", "first load, ms 2000.00"), lines.subList(4, 7))
    }
}
