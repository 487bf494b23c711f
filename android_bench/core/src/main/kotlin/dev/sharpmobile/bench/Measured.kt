// What has been measured of one export so far, and the results that come of it at any moment.

package dev.sharpmobile.bench

/** One later launch by a plan: seconds of its parts, bytes after the prompt's step and at most, what the prompt gave. */
class Launch(
    val plan: Plan,
    val load: Double,
    val forwards: List<Double>,
    val prefill: Double,
    val decode: Double,
    val memory: Memory,
    val likeliest: List<Likely>,
)

class Measured(
    private val export: ExportIdentity,
    private val settings: Settings,
    private val device: Device,
) {
    val first = mutableListOf<Double>()
    val launches = mutableListOf<Launch>()
    var tokens: List<Long> = listOf()
    val warnings = mutableListOf<String>()
    var error: String? = null

    /** Say something once. */
    fun warn(warning: String) {
        if (warning !in warnings) warnings.add(warning)
    }

    /** Without a packed cache nothing is left on disk, so every launch is a first one and none a later one. */
    fun results(): Results = Results(
        created = Results.now(),
        status = if (error == null) "ok" else "failed",
        error = error,
        device = device,
        export = export,
        settings = settings,
        load = Load(
            first = samples(first),
            later = if (settings.packedCache) samples(launches.map { it.load }) else null,
        ),
        forward = samples(launches.flatMap { it.forwards }),
        prefill = launches.firstOrNull()?.let { one -> TokenSamples(launches.map { it.prefill }, one.plan.prefill) },
        decode = launches.firstOrNull()?.let { one -> TokenSamples(launches.map { it.decode }, one.plan.decode) },
        memory = if (launches.isEmpty()) null else medianMemory(),
        likeliest = launches.firstOrNull()?.likeliest.orEmpty(),
        tokens = tokens,
        warnings = warnings.toList(),
    )

    private fun samples(seconds: List<Double>) = if (seconds.isEmpty()) null else Samples(seconds)

    private fun medianMemory(): Memory {
        fun median(part: (Memory) -> Long) = Statistics.median(launches.map { part(it.memory).toDouble() }).toLong()
        return Memory(median { it.anonymous }, median { it.file }, median { it.peak })
    }
}
