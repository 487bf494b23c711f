// Benchmark exports in alternation.
//
//     each export:    generate the manifest's tokens, so that what is timed is known to work
//     repetition 1:   export A: first, later   export B: first, later
//     repetition 2:   export A: first, later   export B: first, later
//     …
//
//     first   load and init without packed weights on disk; leaves them there
//     later   load and init with them; then the prompt, a warm-up, the forwards, prefill and decode, and the memory
//
// Alternating means that what the device does beside, and that it gets warm, falls on all exports alike; read medians.
// The steps of a launch are those of host_bench/runner.cpp.

package dev.sharpmobile.bench

import java.io.File

/** A line for people, the stage that begins (null: one has ended), and what has been measured so far. */
class Progress(val line: String, val stage: String?, val soFar: Results)

/**
 * device: asked before every launch, for its thermal state. caches: where packed weights are kept; null for nowhere.
 * check: refuses an export before it is run.
 */
class Protocol(
    private val plan: Plan,
    private val engine: Engine,
    private val device: () -> Device,
    private val caches: File?,
    private val check: (ExportFolder) -> Unit = {},
    private val progress: (Progress) -> Unit = {},
    private val cancelled: () -> Boolean = { false },
) {
    /** Measure exports; results in their order, failed ones among them. */
    fun run(exports: List<ExportFolder>): List<Results> {
        val benches = exports.map { Bench(it) }
        for (bench in benches) {
            bench.attempt("the first tokens: ${bench.name}", "the first launch") { generate() }
        }
        for (repetition in 1..plan.repetitions) {
            for (bench in benches) {
                val line = "repetition $repetition of ${plan.repetitions}: ${bench.name}"
                bench.attempt(line, "a first launch") { first() }
                bench.attempt(line, "a later launch") { later() }
            }
        }
        for (bench in benches) bench.noteHeat()
        return benches.map { it.measured.results() }
    }

    /** One export, its packed weights, what was measured of it, and the ways to launch it. */
    private inner class Bench(private val export: ExportFolder) {
        val name = export.identity.name
        private val cache = if (engine.packedCache && caches != null) packedCache(caches) else null
        private lateinit var fitted: Plan
        val measured = Measured(export.identity, settings(), device())

        /** Do one thing unless something has failed before; a failure ends this export and no other. */
        fun attempt(line: String, stage: String, work: Bench.() -> Unit) {
            if (measured.error != null) return
            try {
                if (cancelled()) throw Failure("$name: was stopped before its end; run it again")
                noteHeat()
                progress(Progress(line, stage, measured.results()))
                work()
            } catch (error: Exception) {
                measured.error = told(error)
            } catch (error: OutOfMemoryError) {
                measured.error = "$name: there is too little memory for it (${told(error)}); share more layers"
            }
            progress(Progress(line, null, measured.results()))
        }

        /** Refuse what cannot run, then continue the manifest's prompt as the manifest does. */
        fun generate() {
            export.checkRuntime(engine.runtime)
            fitted = plan.fitted(export)
            check(export)
            export.checkHash()
            engine.limits.forEach(measured::warn)
            load(null).use { model ->
                val logits = model.step(prompt(), 0)
                measured.tokens = Greedy.continued(model, logits, export.prompt.size, export.expectedTokens.size)
            }
            divergenceWarnings(export, measured.tokens).forEach(measured::warn)
        }

        /** Load without packed weights on disk, but for those that the export brings, and leave some there. */
        fun first() {
            if (cache == null || brought(cache)) {
                measured.first.add(timedLoad(cache?.path))
            } else {
                measured.first.add(cache.make { timedLoad(it) })
            }
        }

        /** A whole launch with the packed weights of an earlier one. */
        fun later() {
            val launch = if (cache == null) launch(null) else cache.usedBy({ launch(it) }, make = { timedLoad(it) })
            measured.launches.add(launch)
        }

        /** Say it if the device slows itself down. */
        fun noteHeat() {
            val thermal = device().thermal
            if (thermal in THROTTLED) {
                measured.warn("throttled: the device's thermal state was $thermal; let it cool down and measure again")
            }
        }

        private fun brought(cache: PackedCache): Boolean {
            val key = Triple(engine.cpuClass, version(), export.identity.sha256)
            val packed = export.packed.firstOrNull { Triple(it.cpuClass, it.runtime, it.pteSha256) == key }
            if (packed == null || !cache.bring(packed, export)) return false
            measured.warn("the first launch had the packed weights that the export brings")
            return true
        }

        private fun launch(packed: File?): Launch {
            val start = System.nanoTime()
            load(packed).use { model ->
                val load = secondsSince(start)
                val memory = mutableListOf(engine.memory())
                val logits = model.step(prompt(), 0)
                memory.add(engine.memory())
                val next = longArrayOf(Greedy.argmax(logits))
                val position = export.prompt.size.toLong()
                repeat(fitted.warmups) { model.step(next, position) }
                val forwards = List(fitted.forwards) { timed { model.step(next, position) } }
                memory.add(engine.memory())
                val passage = LongArray(fitted.prefill) { export.prompt[it % export.prompt.size] }
                val prefill = timed { model.step(passage, 0) }
                memory.add(engine.memory())
                val predicted = model.step(prompt(), 0)
                // One more than is fed, since the prompt's own step gave the first.
                val decode = timed { Greedy.continued(model, predicted, export.prompt.size, fitted.decode + 1) }
                memory.add(engine.memory())
                // The process's own mark would be of all exports that it ran, and of packing.
                val peak = memory.maxOf { it.anonymous + it.file }
                val likeliest = Greedy.likeliest(logits, LIKELIEST)
                return Launch(fitted, load, forwards, prefill, decode, memory[1].copy(peak = peak), likeliest)
            }
        }

        private fun timedLoad(packed: File?): Double {
            val start = System.nanoTime()
            return load(packed).use { secondsSince(start) }
        }

        private fun load(packed: File?) = engine.load(export.pte, plan.threads, packed)

        private fun prompt() = export.prompt.toLongArray()

        private fun packedCache(directory: File) =
            PackedCache(directory, PackedCache.key(export.identity.sha256, version(), engine.cpuClass))

        private fun settings() =
            Settings(engine.harness, engine.runtime, plan.threads, engine.weightCache, cache != null)

        private fun version() = engine.runtime.removePrefix("executorch ")
    }
}

/** What is to be said if an export does not generate the tokens of its manifest. */
fun divergenceWarnings(export: ExportFolder, tokens: List<Long>): List<String> {
    val expected = export.expectedTokens
    if (tokens == expected) return listOf()
    val pairs = tokens.zip(expected)
    val position = pairs.indexOfFirst { (ours, theirs) -> ours != theirs }.takeIf { it >= 0 } ?: pairs.size
    return listOf(
        "greedy tokens part from the manifest's at position $position of ${expected.size}; kernels of another " +
            "CPU round differently, but tokens that differ from the first on mean another model",
    )
}

private const val LIKELIEST = 5

// iOS's and Android's words for a device that slows itself down.
private val THROTTLED = setOf("serious", "severe", "critical", "emergency", "shutdown")

private fun secondsSince(start: Long): Double = (System.nanoTime() - start) / 1e9

private fun timed(work: () -> Unit): Double {
    val start = System.nanoTime()
    work()
    return secondsSince(start)
}
