// What one launch of an export does, and how long each part takes.
//
//     firstToken   load ─► a prompt of `prefill` tokens ─► the first token
//     measure      load ─► the prompt ─► warm-ups ─► forwards ─► prefill ─► decode ─► decode at depths
//     sweep        load with other threads ─► the prompt ─► prefill and decode, `repetitions` times
//     sustain      load ─► decode in cycles, until `sustain` seconds have passed
//
// All launches are in one process, so the system's mark of a peak is that of the launches before, unless this one
// raised it. Then the peak is the most that was seen after its parts.

package dev.sharpmobile.bench

import java.io.File
import kotlin.math.max

/** Seconds of load and init, and from the start of that to the first token. */
class FirstTokenTimes(val load: Double, val firstToken: Double)

/** What one launch measured; tokenLatency: of each token that was decoded. */
class LaunchTimes(
    val load: Double,
    val forwards: List<Double>,
    val prefill: Double,
    val tokenLatency: List<Double>,
    val atDepth: List<DepthSamples>,
    val memory: Memory,
    val likeliest: List<Likely>,
)

/** complete: not stopped before its time was over. */
class SustainedRun(val windows: List<Window>, val complete: Boolean)

/** plan: fitted to the export. */
class Launch(private val export: ExportFolder, private val plan: Plan, private val engine: Engine) {
    private val prompt = export.prompt.toLongArray()
    private val afterPrompt = export.prompt.size.toLong()

    /** packed: where packed weights are, or are to be written; null for none on disk. */
    fun firstToken(packed: File?): FirstTokenTimes {
        val start = System.nanoTime()
        val (load, loaded) = timed { engine.load(export.pte, plan.threads, packed) }
        loaded.use {
            Greedy.argmax(InParts(loaded, export.longestStep).step(repeated(plan.prefill), 0))
            return FirstTokenTimes(load, secondsSince(start))
        }
    }

    /** All measurements of one launch. */
    fun measure(packed: File?): LaunchTimes {
        val before = engine.memory()
        val (load, loaded) = timed { engine.load(export.pte, plan.threads, packed) }
        loaded.use {
            val model = InParts(loaded, export.longestStep)
            val seen = mutableListOf(engine.memory())
            val logits = model.step(prompt, 0)
            val afterForward = engine.memory()
            seen.add(afterForward)
            val next = longArrayOf(Greedy.argmax(logits))
            repeat(plan.warmups) { model.step(next, afterPrompt) }
            val forwards = List(plan.forwards) { timed { model.step(next, afterPrompt) }.first }
            seen.add(engine.memory())
            val prefill = prefill(model)
            seen.add(engine.memory())
            val decode = decode(model)
            seen.add(engine.memory())
            val atDepth = plan.depths.map { DepthSamples(it, listOf(decode(model, it).sum()), plan.decode) }
            seen.add(engine.memory())
            val memory = peaks(before, afterForward, seen)
            return LaunchTimes(load, forwards, prefill, decode, atDepth, memory, Greedy.likeliest(logits, LIKELIEST))
        }
    }

    /** Prefill and decode with another count of threads. */
    fun sweep(threads: Int, packed: File?): ThreadsSamples {
        engine.load(export.pte, threads, packed).use { loaded ->
            val model = InParts(loaded, export.longestStep)
            model.step(prompt, 0)
            val runs = List(plan.repetitions) { prefill(model) to decode(model).sum() }
            return ThreadsSamples(
                threads,
                TokenSamples(runs.map { it.first }, plan.prefill),
                TokenSamples(runs.map { it.second }, plan.decode),
            )
        }
    }

    /**
     * Decode for `plan.sustain` seconds, joined into windows of a second or more; a shorter rest is dropped.
     *
     * elapsed: seconds since the start of the run. say: gets the seconds that have passed, about every ten. stopped:
     * asked between cycles.
     */
    fun sustain(packed: File?, elapsed: () -> Double, say: (Int) -> Unit, stopped: () -> Boolean): SustainedRun {
        engine.load(export.pte, plan.threads, packed).use { loaded ->
            val model = InParts(loaded, export.longestStep)
            val windows = mutableListOf<Window>()
            val begun = elapsed()
            var (seconds, tokens, due) = Triple(0.0, 0, 0.0)
            while (true) {
                val passed = elapsed() - begun
                if (passed >= plan.sustain) return SustainedRun(windows, complete = true)
                if (stopped()) return SustainedRun(windows, complete = false)
                if (passed >= due) {
                    say(passed.toInt())
                    due += SAY_EVERY
                }
                seconds += decode(model).sum()
                tokens += plan.decode
                if (seconds < WINDOW) continue
                windows.add(Window(elapsed(), tokens, seconds))
                seconds = 0.0
                tokens = 0
            }
        }
    }

    /** Seconds of a prefill. */
    private fun prefill(model: LoadedModel): Double {
        val tokens = repeated(plan.prefill)
        return timed { model.step(tokens, 0) }.first
    }

    /** Seconds of each decoded token after the prompt, or after `depth` tokens. */
    private fun decode(model: LoadedModel, depth: Int? = null): List<Double> {
        val before = if (depth == null) prompt else repeated(depth)
        return Greedy.timedContinuation(model, model.step(before, 0), before.size.toLong(), plan.decode)
    }

    /** `count` tokens to feed: the prompt over and over. */
    private fun repeated(count: Int) = LongArray(count) { prompt[it % prompt.size] }

    private fun peaks(before: Memory, during: Memory, seen: List<Memory>): Memory {
        val resident = seen.maxOf { it.anonymous + it.file }
        val footprint = seen.mapNotNull { it.footprint }.maxOrNull()
        return during.copy(
            peak = raised(before.peak, seen.last().peak) ?: resident,
            footprintPeak = raised(before.footprintPeak, seen.last().footprintPeak) ?: footprint,
        )
    }

    /** The mark, if it rose during the launch. */
    private fun raised(before: Long?, after: Long?) = after?.takeIf { before != null && it > before }

    private companion object {
        const val LIKELIEST = 5
        const val SAY_EVERY = 10.0
        const val WINDOW = 1.0
    }
}

/** A model that takes longer inputs than one forward does, in parts. */
class InParts(private val loaded: LoadedModel, private val longest: Int) : LoadedModel by loaded {
    override fun step(tokens: LongArray, position: Long): FloatArray {
        var logits = FloatArray(0)
        for (start in tokens.indices step longest) {
            val end = minOf(start + longest, tokens.size)
            logits = loaded.step(tokens.copyOfRange(start, end), position + start)
        }
        return logits
    }
}

/** Seconds by a clock that nobody sets, never zero. */
private fun <T> timed(work: () -> T): Pair<Double, T> {
    val start = System.nanoTime()
    val done = work()
    return secondsSince(start) to done
}

private fun secondsSince(start: Long): Double = max(1, System.nanoTime() - start) / 1e9
