// The results of a benchmark, by the schema of sharp_mobile/bench/results.schema.json (version 2).
//
//     Results
//       device     where: kind, model, OS, CPU, cores, memory, thermal state and battery, where the system reports them
//       export     what: name, plan, hash and bytes of the .pte
//       settings   how: runtime, threads, caches
//       load       seconds of load + init, on the first launch and on later ones
//       firstToken seconds from the start of load to the first token, on the first launch and on later ones
//       forward    seconds of a forward pass of one token
//       prefill, decode   seconds of each run, and tokens in it
//       tokenLatency      seconds of each decoded token
//       decodeAtDepth, threadsSweep, sustained   decode with a filled KV cache, by threads, over minutes
//       memory, idleMemory   bytes of the process, and before the first load
//       conditions how hot and how fast the device was during the run
//       likeliest  what the model predicts after the manifest's prompt, to show that all places answer alike
//
// What was not measured is null, never zero. A benchmark that failed says why and keeps what it had measured. The
// apps measure; only Python judges.

package dev.sharpmobile.bench

import java.io.File
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

const val SCHEMA_VERSION = 2L

/** Seconds of several runs of the same thing, in their order. */
data class Samples(val seconds: List<Double>)

/** Seconds of several runs of `tokens` tokens each. */
data class TokenSamples(val seconds: List<Double>, val tokens: Int)

/** Seconds of several runs of `tokens` decoded tokens, with `depth` tokens in the KV cache before them. */
data class DepthSamples(val depth: Int, val seconds: List<Double>, val tokens: Int)

/** Prefill and decode with a count of threads. */
data class ThreadsSamples(val threads: Int, val prefill: TokenSamples, val decode: TokenSamples)

/** A part of a sustained run. at: its end, in seconds since the start of the run. */
data class Window(val at: Double, val tokens: Int, val seconds: Double)

/** Where it ran. performanceCores: cores of the fast kinds. */
data class Device(
    val kind: String,
    val model: String,
    val os: String,
    val cpu: String,
    val cores: Int,
    val performanceCores: Int? = null,
    val memoryBytes: Long? = null,
    val thermal: String? = null,
    val battery: String? = null,
)

/** What ran, from the export's manifest. */
data class ExportIdentity(
    val name: String,
    val plan: String,
    val sha256: String,
    val fileBytes: Long,
    val tensorBytes: Long,
    val unsharedBytes: Long,
    val divergence: Double? = null,
)

/** How it ran. harness: the program that measured. fixedPerformance: Android's mode, set by Python's driver only. */
data class Settings(
    val harness: String,
    val runtime: String,
    val threads: Int,
    val weightCache: Boolean,
    val packedCache: Boolean,
    val memoryLimit: Long? = null,
    val fixedPerformance: Boolean? = null,
)

/** Seconds of load and init: without packed weights on disk, with them, and with them and an empty page cache. */
data class Load(val first: Samples? = null, val later: Samples? = null, val cold: Samples? = null)

/** Seconds from the start of load to the first token after a prompt: without packed weights on disk, and with them. */
data class FirstToken(val first: TokenSamples? = null, val later: TokenSamples? = null)

/**
 * Bytes of the process. anonymous, file: resident memory and pages of files; peak: the most of both together.
 * footprint: what the system charges the process with, PSS on Android and Linux; footprintPeak: the most of it.
 */
data class Memory(
    val anonymous: Long,
    val file: Long,
    val peak: Long,
    val footprint: Long? = null,
    val footprintPeak: Long? = null,
)

/** A token and its logit. */
data class Likely(val token: Long, val logit: Double)

/** A benchmark of one export in one place; see the file's head. */
data class Results(
    val created: String,
    val status: String = "ok",
    val error: String? = null,
    val device: Device,
    val export: ExportIdentity,
    val settings: Settings,
    val load: Load = Load(),
    val firstToken: FirstToken = FirstToken(),
    val forward: Samples? = null,
    val prefill: TokenSamples? = null,
    val decode: TokenSamples? = null,
    val tokenLatency: Samples? = null,
    val decodeAtDepth: List<DepthSamples> = listOf(),
    val threadsSweep: List<ThreadsSamples> = listOf(),
    val sustained: List<Window> = listOf(),
    val memory: Memory? = null,
    val idleMemory: Memory? = null,
    val conditions: List<Condition> = listOf(),
    val likeliest: List<Likely> = listOf(),
    val tokens: List<Long> = listOf(),
    val expectedTokens: List<Long> = listOf(),
    val warnings: List<String> = listOf(),
) {
    /** The same, with why it failed. */
    fun failed(error: String): Results = copy(status = "failed", error = error)

    /** Its file's text. Throws where a number is none, such as an infinite logit. */
    fun toJson(): String = try {
        Json.write(json(this))
    } catch (error: IllegalArgumentException) {
        throw Failure("${export.name}: has results that no JSON can hold (${error.message}); export it again")
    }

    companion object {
        /** Results from their file's text; what is not of this schema is refused. */
        fun parse(json: String): Results {
            val value = try {
                Json.parse(json)
            } catch (error: IllegalArgumentException) {
                throw Failure("is not a whole results file (${error.message}); run the benchmark again")
            }
            val fields = Fields(value, "results")
            val version = fields.wholeOrNull("schema_version")
            if (version != SCHEMA_VERSION) {
                val of = if (version == null) "has no schema version" else "is of schema version $version"
                throw Failure("$of, this program reads version $SCHEMA_VERSION; run the benchmark again")
            }
            return results(fields)
        }
    }

    /** Write the file, whole or not at all. */
    fun write(file: File) = replaceText(file, toJson())
}

/** The time as `Results.created` has it: UTC, ISO 8601. */
fun now(): String {
    val format = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT)
    format.timeZone = TimeZone.getTimeZone("UTC")
    return format.format(Date())
}

private fun json(results: Results) = linkedMapOf(
    "schema_version" to SCHEMA_VERSION,
    "created" to results.created,
    "status" to results.status,
    "error" to results.error,
    "device" to json(results.device),
    "export" to json(results.export),
    "settings" to json(results.settings),
    "load" to json(results.load),
    "first_token" to linkedMapOf(
        "first" to json(results.firstToken.first),
        "later" to json(results.firstToken.later),
    ),
    "forward" to json(results.forward),
    "prefill" to json(results.prefill),
    "decode" to json(results.decode),
    "token_latency" to json(results.tokenLatency),
    "decode_at_depth" to results.decodeAtDepth.map {
        linkedMapOf("seconds" to it.seconds, "tokens" to it.tokens, "depth" to it.depth)
    },
    "threads_sweep" to results.threadsSweep.map {
        linkedMapOf("threads" to it.threads, "prefill" to json(it.prefill), "decode" to json(it.decode))
    },
    "sustained" to results.sustained.map {
        linkedMapOf("at" to it.at, "tokens" to it.tokens, "seconds" to it.seconds)
    },
    "memory" to json(results.memory),
    "idle_memory" to json(results.idleMemory),
    "conditions" to results.conditions.map(::json),
    "counts" to null,
    "likeliest" to results.likeliest.map { listOf(it.token, it.logit) },
    "tokens" to results.tokens,
    "expected_tokens" to results.expectedTokens,
    "warnings" to results.warnings,
)

private fun json(samples: Samples?) = samples?.let { linkedMapOf("seconds" to it.seconds) }

private fun json(samples: TokenSamples?) =
    samples?.let { linkedMapOf("seconds" to it.seconds, "tokens" to it.tokens) }

private fun json(device: Device) = linkedMapOf(
    "kind" to device.kind,
    "model" to device.model,
    "os" to device.os,
    "cpu" to device.cpu,
    "cores" to device.cores,
    "performance_cores" to device.performanceCores,
    "memory_bytes" to device.memoryBytes,
    "thermal" to device.thermal,
    "battery" to device.battery,
)

private fun json(export: ExportIdentity) = linkedMapOf(
    "name" to export.name,
    "plan" to export.plan,
    "sha256" to export.sha256,
    "file_bytes" to export.fileBytes,
    "tensor_bytes" to export.tensorBytes,
    "unshared_bytes" to export.unsharedBytes,
    "divergence" to export.divergence,
)

private fun json(settings: Settings) = linkedMapOf(
    "harness" to settings.harness,
    "runtime" to settings.runtime,
    "threads" to settings.threads,
    "weight_cache" to settings.weightCache,
    "packed_cache" to settings.packedCache,
    "memory_limit" to settings.memoryLimit,
    "fixed_performance" to settings.fixedPerformance,
)

private fun json(load: Load) =
    linkedMapOf("first" to json(load.first), "later" to json(load.later), "cold" to json(load.cold))

private fun json(memory: Memory?) = memory?.let {
    linkedMapOf(
        "anonymous" to it.anonymous,
        "file" to it.file,
        "peak" to it.peak,
        "footprint" to it.footprint,
        "footprint_peak" to it.footprintPeak,
    )
}

private fun json(condition: Condition) = linkedMapOf(
    "at" to condition.at,
    "thermal" to condition.thermal,
    "clocks_hz" to condition.clocksHz,
    "charge_uah" to condition.chargeUah,
    "battery_level" to condition.batteryLevel,
    "charging" to condition.charging,
    "battery_celsius" to condition.batteryCelsius,
)

private fun results(fields: Fields): Results {
    val results = Results(
        created = fields.text("created"),
        status = fields.textOrNull("status") ?: "ok",
        error = fields.textOrNull("error"),
        device = device(fields.fields("device")),
        export = export(fields.fields("export")),
        settings = settings(fields.fields("settings")),
        load = fields.fieldsOrNull("load")?.let(::load) ?: Load(),
        firstToken = fields.fieldsOrNull("first_token")?.let(::firstToken) ?: FirstToken(),
        forward = fields.fieldsOrNull("forward")?.let(::samples),
        prefill = fields.fieldsOrNull("prefill")?.let(::tokenSamples),
        decode = fields.fieldsOrNull("decode")?.let(::tokenSamples),
        tokenLatency = fields.fieldsOrNull("token_latency")?.let(::samples),
        decodeAtDepth = fields.each("decode_at_depth", ::depthSamples),
        threadsSweep = fields.each("threads_sweep", ::threadsSamples),
        sustained = fields.each("sustained", ::window),
        memory = fields.fieldsOrNull("memory")?.let(::memory),
        idleMemory = fields.fieldsOrNull("idle_memory")?.let(::memory),
        conditions = fields.each("conditions", ::condition),
        likeliest = fields.list("likeliest").map(::likely),
        tokens = fields.wholes("tokens"),
        expectedTokens = fields.wholes("expected_tokens"),
        warnings = fields.texts("warnings"),
    )
    if (fields.fieldsOrNull("counts") != null) throw Failure("results: have counts, which only emulation has")
    fields.end()
    if (results.status !in setOf("ok", "failed") || (results.status == "failed") != !results.error.isNullOrEmpty()) {
        throw Failure("results: a benchmark that failed, and no other, has an error")
    }
    return results
}

private fun samples(fields: Fields) = Samples(seconds(fields)).also { fields.end() }

private fun tokenSamples(fields: Fields) =
    TokenSamples(seconds(fields), fields.whole("tokens").toInt()).also { fields.end() }

private fun seconds(fields: Fields): List<Double> {
    val seconds = fields.numbers("seconds")
    if (seconds.isEmpty() || seconds.any { it <= 0 }) throw Failure("results: seconds that nobody measured")
    return seconds
}

private fun device(fields: Fields) = Device(
    kind = fields.text("kind"),
    model = fields.text("model"),
    os = fields.text("os"),
    cpu = fields.text("cpu"),
    cores = fields.whole("cores").toInt(),
    performanceCores = fields.wholeOrNull("performance_cores")?.toInt(),
    memoryBytes = fields.wholeOrNull("memory_bytes"),
    thermal = fields.textOrNull("thermal"),
    battery = fields.textOrNull("battery"),
).also { fields.end() }

private fun export(fields: Fields) = ExportIdentity(
    name = fields.text("name"),
    plan = fields.text("plan"),
    sha256 = fields.text("sha256"),
    fileBytes = fields.whole("file_bytes"),
    tensorBytes = fields.whole("tensor_bytes"),
    unsharedBytes = fields.whole("unshared_bytes"),
    divergence = fields.numberOrNull("divergence"),
).also { fields.end() }

private fun settings(fields: Fields) = Settings(
    harness = fields.text("harness"),
    runtime = fields.text("runtime"),
    threads = fields.whole("threads").toInt(),
    weightCache = fields.flag("weight_cache"),
    packedCache = fields.flag("packed_cache"),
    memoryLimit = fields.wholeOrNull("memory_limit"),
    fixedPerformance = fields.flagOrNull("fixed_performance"),
).also { fields.end() }

private fun load(fields: Fields) = Load(
    first = fields.fieldsOrNull("first")?.let(::samples),
    later = fields.fieldsOrNull("later")?.let(::samples),
    cold = fields.fieldsOrNull("cold")?.let(::samples),
).also { fields.end() }

private fun firstToken(fields: Fields) = FirstToken(
    first = fields.fieldsOrNull("first")?.let(::tokenSamples),
    later = fields.fieldsOrNull("later")?.let(::tokenSamples),
).also { fields.end() }

private fun depthSamples(fields: Fields) =
    DepthSamples(fields.whole("depth").toInt(), seconds(fields), fields.whole("tokens").toInt()).also { fields.end() }

private fun threadsSamples(fields: Fields) = ThreadsSamples(
    threads = fields.whole("threads").toInt(),
    prefill = tokenSamples(fields.fields("prefill")),
    decode = tokenSamples(fields.fields("decode")),
).also { fields.end() }

private fun window(fields: Fields) =
    Window(fields.number("at"), fields.whole("tokens").toInt(), fields.number("seconds")).also { fields.end() }

private fun memory(fields: Fields) = Memory(
    anonymous = fields.whole("anonymous"),
    file = fields.whole("file"),
    peak = fields.whole("peak"),
    footprint = fields.wholeOrNull("footprint"),
    footprintPeak = fields.wholeOrNull("footprint_peak"),
).also { fields.end() }

private fun condition(fields: Fields) = Condition(
    at = fields.number("at"),
    thermal = fields.textOrNull("thermal"),
    clocksHz = fields.wholes("clocks_hz"),
    chargeUah = fields.wholeOrNull("charge_uah"),
    batteryLevel = fields.numberOrNull("battery_level"),
    charging = fields.flagOrNull("charging"),
    batteryCelsius = fields.numberOrNull("battery_celsius"),
).also { fields.end() }

private fun likely(pair: Any?): Likely {
    val (token, logit) = (pair as? List<*>)?.takeIf { it.size == 2 } ?: throw Failure("results: likeliest has no pairs")
    if (token !is Long || logit !is Number) throw Failure("results: likeliest has no pairs of token and logit")
    return Likely(token, logit.toDouble())
}
