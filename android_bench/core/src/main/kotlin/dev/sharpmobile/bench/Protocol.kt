// Benchmark exports in alternation; the same as sharp_mobile/bench/host.py with host_bench/runner.cpp.
//
//     check and generate: runtime, room, hash, greedy tokens of each export
//     repetition 1:   export A: first, later   export B: first, later
//     repetition 2:   export A: first, later   export B: first, later
//     …
//
//     first   load and init without packed weights on disk; leaves them there
//     later   load and init with them ─► the prompt ─► warm-ups ─► forwards ─► prefill ─► decode
//
// Alternating means that what the device does beside falls on all exports alike; read medians. An export that fails
// keeps what was measured of it, and the others go on. All launches are in one process, so the most memory of a launch
// is the most that was seen after its parts: the system's own mark would be that of the exports before.

package dev.sharpmobile.bench

import java.io.File
import java.util.Locale
import kotlin.math.max

class Progress(val repetition: Int, val repetitions: Int, val name: String) {
    val line: String get() = "repetition $repetition of $repetitions: $name"
}

/**
 * How a run sees its device: `device`, what it is and how warm; `room`, what is free; `caches`, where packed weights
 * are kept; `journal`, where an export's results go.
 */
class Place(
    val device: () -> Device,
    val room: () -> Room,
    val caches: File?,
    val journal: (ExportFolder) -> Journal?,
)

object BenchProtocol {
    /** Measure exports; results in their order. */
    fun run(
        exports: List<ExportFolder>, plan: Plan, engine: Engine, place: Place,
        progress: (Progress) -> Unit, cancelled: () -> Boolean,
    ): List<Results> {
        val benches = exports.map { Bench(it, plan.fitted(it), engine, place) }
        for (bench in benches) bench.waits()
        for ((index, bench) in benches.withIndex()) {
            if (cancelled()) break
            val same = exports.take(index).firstOrNull { it.identity.sha256 == bench.export.identity.sha256 }
            bench.attempt("the check") { bench.check(same) }
            bench.attempt("the first words") { bench.generate() }
        }
        for (repetition in 1..plan.repetitions) {
            for (bench in benches) {
                if (bench.error != null || cancelled()) continue
                progress(Progress(repetition, plan.repetitions, bench.export.name))
                bench.attempt("the first launch") { bench.first() }
                bench.attempt("a later launch") { bench.later() }
            }
        }
        return benches.map { it.finish() }
    }

    /**
     * What is to be said if an export does not generate the tokens of its manifest. likeliest: after the prompt, which
     * tells how near a first token that differs is.
     */
    fun divergenceWarnings(tokens: List<Long>, expected: List<Long>, likeliest: List<Likely>): List<String> {
        if (tokens == expected) return listOf()
        val pairs = tokens.zip(expected)
        val position = pairs.indexOfFirst { (ours, theirs) -> ours != theirs }.takeIf { it >= 0 } ?: pairs.size
        val logits = likeliest.associate { it.token to it.logit }
        val ours = logits[tokens.firstOrNull()]
        val theirs = logits[expected.firstOrNull()]
        val why = when {
            position > 0 -> "kernels of another CPU round differently"
            ours == null || theirs == null -> "a first token that is not even among the likeliest means another model"
            else -> "kernels of another CPU round differently, and here the manifest's token is " +
                "%.2f behind in logits".format(Locale.ROOT, ours - theirs)
        }
        return listOf("greedy tokens part from the manifest's at position $position of ${expected.size}; $why")
    }
}

/** What one later launch took. */
private class Launch(
    val load: Double,
    val forwards: List<Double>,
    val prefill: Double,
    val decode: Double,
    val memory: Memory,
    val likeliest: List<Likely>,
)

/** One export, its packed weights, and what was measured of it. */
private class Bench(
    val export: ExportFolder, private val plan: Plan, private val engine: Engine, private val place: Place,
) {
    var error: String? = null
        private set
    private val version = engine.runtime.removePrefix("executorch ")
    private val cache = place.caches?.takeIf { engine.packedCache }?.let {
        PackedCache(it, PackedCache.key(export.identity.sha256, version, engine.cpuClass))
    }
    private val journal = place.journal(export)
    private val device = place.device()
    private val firsts = mutableListOf<Double>()
    private val laters = mutableListOf<Launch>()
    private var tokens = listOf<Long>()
    private val warnings = mutableListOf<String>()

    /** Nothing is measured yet, and the results file says so. */
    fun waits() {
        try {
            journal?.pause(results())
        } catch (error: Failure) {
            this.error = told(error)
        }
    }

    /** Do a part of the work, unless an earlier one failed; the results file tells what is being done. */
    fun attempt(stage: String, work: () -> Unit) {
        if (error != null) return
        try {
            feel()
            journal?.begin(results(), stage)
            work()
            feel()
            journal?.pause(results())
        } catch (error: Exception) {
            this.error = told(error)
        } catch (error: OutOfMemoryError) {
            this.error = "${export.name}: there is too little memory for it (${told(error)}); share more layers"
        }
        if (error != null) finish() // the others may go on for long
    }

    /** Fail before the long work what cannot succeed. */
    fun check(same: ExportFolder?) {
        if (same != null) throw Failure("${export.name}: is the same export as ${same.name}; name it once")
        export.checkRuntime(engine.runtime)
        Requirements.check(place.room(), cache != null, export)
        export.checkHash()
    }

    /** Continue the manifest's prompt as the manifest does. */
    fun generate() {
        engine.limits.forEach { warn(it) }
        engine.load(export.pte, plan.threads, null).use { loaded ->
            val model = steps(loaded)
            val logits = model.step(prompt(), 0)
            tokens = Greedy.continuation(model, logits, position(), export.expectedTokens.size, export.stop)
            val likeliest = Greedy.likeliest(logits, 5)
            BenchProtocol.divergenceWarnings(tokens, export.expectedTokens, likeliest).forEach { warn(it) }
        }
    }

    /** Load without packed weights on disk, and leave them there. */
    fun first() {
        if (cache == null) {
            firsts.add(load(null))
            return
        }
        cache.delete()
        val brought = export.packed.any { cache.bring(it, export, version, engine.cpuClass) }
        if (brought) warn("the first launch had the packed weights that the export brings")
        firsts.add(if (brought) cache.usedBy(::load, ::pack) else cache.make(::load))
    }

    /** A whole launch with the packed weights of an earlier one. */
    fun later() {
        laters.add(cache?.usedBy(::launch, ::pack) ?: launch(null))
    }

    /** The results, in the file too. */
    fun finish(): Results {
        if (error == null && laters.size < plan.repetitions) {
            error = "stopped after ${laters.size} of ${plan.repetitions} repetitions; run it again"
        }
        val found = error?.let { results().failed(it) } ?: results()
        try {
            journal?.finish(found)
            return found
        } catch (error: Failure) {
            return found.failed(told(error))
        }
    }

    private fun pack(path: File) {
        load(path)
    }

    private fun load(path: File?): Double {
        val (seconds, model) = timed { engine.load(export.pte, plan.threads, path) }
        model.close()
        return seconds
    }

    private fun launch(path: File?): Launch {
        val (load, loaded) = timed { engine.load(export.pte, plan.threads, path) }
        loaded.use {
            val model = steps(loaded)
            val seen = mutableListOf(engine.memory())
            val logits = model.step(prompt(), 0)
            val afterForward = engine.memory()
            seen.add(afterForward)
            val next = longArrayOf(Greedy.argmax(logits))
            repeat(plan.warmups) { model.step(next, position()) }
            val forwards = List(plan.forwards) { timed { model.step(next, position()) }.first }
            seen.add(engine.memory())
            val passage = repeated(export.prompt, plan.prefill)
            val prefill = timed { model.step(passage, 0) }.first
            seen.add(engine.memory())
            val start = model.step(prompt(), 0)
            // One more than is fed, since the prompt's own step gave the first.
            val decode = timed { Greedy.continuation(model, start, position(), plan.decode + 1, listOf()) }.first
            seen.add(engine.memory())
            val memory = afterForward.copy(peak = seen.maxOf { it.anonymous + it.file })
            return Launch(load, forwards, prefill, decode, memory, Greedy.likeliest(logits, 5))
        }
    }

    private fun results() = Results(
        created = now(),
        device = device,
        export = export.identity,
        settings = Settings(engine.harness, engine.runtime, plan.threads, engine.weightCache, cache != null),
        load = Load(samples(firsts), if (cache == null) null else samples(laters.map { it.load })),
        forward = samples(laters.flatMap { it.forwards }),
        prefill = samples(laters.map { it.prefill })?.let { TokenSamples(it.seconds, plan.prefill) },
        decode = samples(laters.map { it.decode })?.let { TokenSamples(it.seconds, plan.decode) },
        memory = memory(),
        likeliest = laters.firstOrNull()?.likeliest.orEmpty(),
        tokens = tokens,
        warnings = warnings.toList(),
    )

    private fun memory(): Memory? {
        if (laters.isEmpty()) return null
        fun middle(part: (Memory) -> Long) = Statistics.median(laters.map { part(it.memory).toDouble() }).toLong()
        return Memory(middle { it.anonymous }, middle { it.file }, middle { it.peak })
    }

    /** Notice a device that is too hot to be measured. */
    private fun feel() {
        val felt = place.device()
        if (!felt.throttled) return
        warn("throttled: the device was ${felt.thermal}, so it was slowed down; let it cool, run it again")
    }

    private fun warn(warning: String) {
        if (warning !in warnings) warnings.add(warning)
    }

    /** The model, but an input that is longer than one forward takes is fed in parts. */
    private fun steps(loaded: LoadedModel) = object : LoadedModel by loaded {
        override fun step(tokens: LongArray, position: Long): FloatArray {
            var logits = FloatArray(0)
            for (start in tokens.indices step export.longestStep) {
                val end = minOf(start + export.longestStep, tokens.size)
                logits = loaded.step(tokens.copyOfRange(start, end), position + start)
            }
            return logits
        }
    }

    private fun prompt() = export.prompt.toLongArray()

    private fun position() = export.prompt.size.toLong()
}

private fun samples(seconds: List<Double>) = if (seconds.isEmpty()) null else Samples(seconds)

/** `count` tokens to feed: the prompt over and over. */
private fun repeated(prompt: List<Long>, count: Int) = LongArray(count) { prompt[it % prompt.size] }

/** Seconds by a clock that nobody sets, never zero. */
private fun <T> timed(work: () -> T): Pair<Double, T> {
    val start = System.nanoTime()
    val done = work()
    return max(1, System.nanoTime() - start) / 1e9 to done
}
