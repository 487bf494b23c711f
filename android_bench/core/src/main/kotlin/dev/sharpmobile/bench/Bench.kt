// One export, its packed weights, and what was measured of it.
//
//     first    load without packed weights ─► first token; leaves packed weights
//     later    load with them ─► all measurements
//     answer   load with them ─► first token; left out if there is no packed cache

package dev.sharpmobile.bench

import java.io.File

/** What was measured until now; a launch that does not count leaves it as it was. */
private data class Measured(
    val firsts: List<FirstTokenTimes> = listOf(),
    val laters: List<LaunchTimes> = listOf(),
    val answers: List<FirstTokenTimes> = listOf(),
    val sweep: List<ThreadsSamples> = listOf(),
    val sustained: SustainedRun? = null,
    val tokens: List<Long> = listOf(),
)

/** What the exports of a run share. idleMemory: of the process before the first load. stop: see BenchProtocol. */
class Run(
    val engine: Engine,
    val place: Place,
    val sampler: Sampler,
    val idleMemory: Memory,
    val stop: () -> Stop?,
)

/** plan: fitted to the export. */
class Bench(val export: ExportFolder, private val plan: Plan, private val run: Run) {
    var error: String? = null
        private set
    private val engine = run.engine
    private val version = engine.runtime.removePrefix("executorch ")
    private val cache = run.place.caches?.takeIf { engine.packedCache }?.let {
        PackedCache(it, PackedCache.key(export.identity.sha256, version, engine.cpuClass))
    }
    private val launch = Launch(export, plan, engine)
    private val journal = run.place.journal(export)
    private val device = run.place.device()
    private var measured = Measured()
    private val warnings = mutableListOf<String>()

    /** The counts of threads to try. */
    val threadCounts: List<Int> = plan.threadCounts(device)

    /** Nothing is under way, and the results file says so. */
    fun waits() {
        try {
            journal?.pause(results())
        } catch (error: Failure) {
            this.error = told(error)
        }
    }

    /** Do a part of the work, unless an earlier one failed or the run is stopped; the results file says which. */
    fun attempt(stage: String, work: () -> Unit) {
        if (error != null || run.stop() != null) return
        val before = measured
        try {
            journal?.begin(results(), stage)
            work()
        } catch (error: Exception) {
            this.error = told(error)
        } catch (error: OutOfMemoryError) {
            this.error = "${export.name}: there is too little memory for it (${told(error)}); share more layers"
        }
        if (run.stop() == Stop.BACKGROUND) {
            measured = before
            error = Interruption(stage, export.name).line
        }
        if (error == null) waits()
        if (error != null) finish() // the others may go on for long
    }

    /** Fail before the long work if it cannot succeed. */
    fun check(same: ExportFolder?) {
        if (same != null) throw Failure("${export.name}: is the same export as ${same.name}; name it once")
        export.checkRuntime(engine.runtime)
        Requirements.check(run.place.room(), cache != null, export)
        export.checkHash()
    }

    /** Continue the manifest's prompt as the manifest does. */
    fun generate() {
        engine.limits.forEach(::warn)
        engine.load(export.pte, plan.threads, null).use { loaded ->
            val model = InParts(loaded, export.longestStep)
            val logits = model.step(export.prompt.toLongArray(), 0)
            val (position, count) = export.prompt.size.toLong() to export.expectedTokens.size
            measured = measured.copy(tokens = Greedy.continuation(model, logits, position, count, export.stop))
        }
    }

    /** A launch without packed weights on disk, which leaves them there. */
    fun first() {
        val times = if (cache == null) launch.firstToken(null) else firstWithCache(cache)
        measured = measured.copy(firsts = measured.firsts + times)
    }

    /** A launch with the packed weights of an earlier one, and all measurements. */
    fun later() {
        val times = withPackedWeights(launch::measure)
        measured = measured.copy(laters = measured.laters + times)
    }

    /** The first token of a launch with packed weights. */
    fun answer() {
        if (cache == null) return
        val times = withPackedWeights(launch::firstToken)
        measured = measured.copy(answers = measured.answers + times)
    }

    /** A launch with another count of threads. */
    fun sweep(threads: Int) {
        val samples = withPackedWeights { launch.sweep(threads, it) }
        measured = measured.copy(sweep = measured.sweep + samples)
    }

    /** A launch that decodes for as long as the plan says. */
    fun sustain(say: (Int) -> Unit) {
        val sustained = withPackedWeights { launch.sustain(it, run.sampler::elapsed, say) { run.stop() != null } }
        measured = measured.copy(sustained = sustained)
    }

    /** The results, in the file too. */
    fun finish(): Results {
        if (error == null) error = missing()?.let { "stopped $it; run it again" }
        val found = error?.let { results().failed(it) } ?: results()
        try {
            journal?.finish(found)
            return found
        } catch (error: Failure) {
            return found.failed(told(error))
        }
    }

    /** What a run that was stopped did not reach. */
    private fun missing(): String? {
        val count = if (cache == null) measured.laters.size else measured.answers.size
        return when {
            count < plan.repetitions -> "after $count of ${plan.repetitions} repetitions"
            measured.sweep.size < threadCounts.size -> "during the threads sweep"
            plan.sustain > 0 && measured.sustained?.complete != true -> "during the sustained run"
            else -> null
        }
    }

    private fun firstWithCache(cache: PackedCache): FirstTokenTimes {
        cache.delete()
        val brought = export.packed.any { cache.bring(it, export, version, engine.cpuClass) }
        if (!brought) return cache.make(launch::firstToken)
        warn("the first launch had the packed weights that the export brings")
        return withPackedWeights(launch::firstToken)
    }

    private fun <T> withPackedWeights(work: (File?) -> T): T = cache?.usedBy(work, ::pack) ?: work(null)

    private fun pack(path: File) = engine.load(export.pte, plan.threads, path).close()

    private fun results() = Results(
        created = now(),
        device = device,
        export = export.identity,
        settings = Settings(engine.harness, engine.runtime, plan.threads, engine.weightCache, cache != null),
        load = Load(
            first = samples(measured.firsts.map { it.load }),
            later = if (cache == null) null else samples(measured.laters.map { it.load }),
        ),
        firstToken = FirstToken(
            first = tokenSamples(measured.firsts.map { it.firstToken }, plan.prefill),
            later = tokenSamples(measured.answers.map { it.firstToken }, plan.prefill),
        ),
        forward = samples(measured.laters.flatMap { it.forwards }),
        prefill = tokenSamples(measured.laters.map { it.prefill }, plan.prefill),
        decode = tokenSamples(measured.laters.map { it.tokenLatency.sum() }, plan.decode),
        tokenLatency = samples(measured.laters.flatMap { it.tokenLatency }),
        decodeAtDepth = atDepth(),
        threadsSweep = measured.sweep,
        sustained = measured.sustained?.windows.orEmpty(),
        memory = memory(measured.laters.map { it.memory }),
        idleMemory = run.idleMemory,
        conditions = run.sampler.taken(),
        likeliest = measured.laters.firstOrNull()?.likeliest.orEmpty(),
        tokens = measured.tokens,
        expectedTokens = export.expectedTokens,
        warnings = warnings.toList(),
    )

    private fun atDepth(): List<DepthSamples> {
        val runs = measured.laters.flatMap { it.atDepth }.groupBy { it.depth }
        return runs.map { (depth, of) -> DepthSamples(depth, of.flatMap { it.seconds }, plan.decode) }
    }

    private fun warn(warning: String) {
        if (warning !in warnings) warnings.add(warning)
    }
}

private fun samples(seconds: List<Double>) = if (seconds.isEmpty()) null else Samples(seconds)

private fun tokenSamples(seconds: List<Double>, tokens: Int) =
    if (seconds.isEmpty()) null else TokenSamples(seconds, tokens)

/** The median of each part. */
private fun memory(launches: List<Memory>): Memory? {
    if (launches.isEmpty()) return null
    return Memory(
        anonymous = middle(launches.map { it.anonymous }),
        file = middle(launches.map { it.file }),
        peak = middle(launches.map { it.peak }),
        footprint = launches.mapNotNull { it.footprint }.takeIf { it.isNotEmpty() }?.let(::middle),
        footprintPeak = launches.mapNotNull { it.footprintPeak }.takeIf { it.isNotEmpty() }?.let(::middle),
    )
}

private fun middle(bytes: List<Long>): Long = Statistics.median(bytes.map { it.toDouble() }).toLong()
