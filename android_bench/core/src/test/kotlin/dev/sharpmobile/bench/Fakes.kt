// A model with predictable answers, directories of exports without one, and the results that every language writes.

package dev.sharpmobile.bench

import java.io.File
import java.nio.file.Files
import java.util.Collections

/** A new directory. */
fun temporary(): File = Files.createTempDirectory("sharp").toFile().also { it.deleteOnExit() }

/** An export of `name` below a directory whose .pte is a line of text. */
fun writeExport(below: File, name: String, executorch: String = "1.5.1", changes: Map<String, Any?> = mapOf()): File {
    val directory = File(below, name).also { it.mkdirs() }
    val pte = File(directory, "model.pte").also { it.writeText("the program of $name") }
    val manifest = linkedMapOf<String, Any?>(
        "format_version" to 1,
        "name" to name,
        "plan" to "2:3",
        "sha256" to sha256Of(pte),
        "sizes" to mapOf("file" to pte.length(), "tensors" to 10, "shared" to 7, "recovery" to 3),
        "metadata" to mapOf("get_max_context_len" to 16, "get_max_seq_len" to 4, "get_eos_ids" to listOf(99)),
        "expected" to mapOf("prompt_tokens" to listOf(1, 2, 3), "tokens" to listOf(4, 5, 6)),
        "versions" to mapOf("executorch" to executorch),
        "divergence" to 0.25,
    ) + changes
    File(directory, "manifest.json").writeText(Json.write(manifest))
    return directory
}

/** Predicts the token after the last one; records its calls. It packs by writing the .pte's name to the file. */
class FakeEngine(
    override val packedCache: Boolean = true,
    override val limits: List<String> = listOf(),
    private val failsAt: Int = -1,
    private val onStep: (FakeEngine) -> Unit = {},
) : Engine {
    override val harness = "fake"
    override val runtime = "executorch 1.5.1"
    override val cpuClass = "a CPU"
    override val weightCache = true
    val calls: MutableList<String> = Collections.synchronizedList(mutableListOf())
    var loads = 0
        private set
    var open = 0
    private var footprint = 30L

    override fun load(pte: File, threads: Int, packedCache: File?): LoadedModel {
        loads++
        if (loads == failsAt) throw IllegalStateException("the runtime said no")
        val found = packedCache?.exists() == true
        val packs = if (packedCache == null) "" else if (found) " packed" else " packs"
        calls.add("load ${pte.parentFile.name}$packs" + if (threads == 1) "" else " by $threads")
        if (packedCache != null && !found) packedCache.writeText("packed ${pte.parentFile.name}")
        open++
        footprint++ // every launch raises the mark
        return Model()
    }

    override fun memory() = Memory(anonymous = 100L + open, file = 50, peak = 999, 20L + open, footprint)

    private inner class Model : LoadedModel {
        override fun step(tokens: LongArray, position: Long): FloatArray {
            calls.add("step ${tokens.toList()} at $position")
            onStep(this@FakeEngine)
            return FloatArray(8) { if (it.toLong() == (tokens.last() + 1) % 8) 1f else 0f }
        }

        override fun close() {
            open--
        }
    }
}

val DEVICE = Device("host", "a machine", "Linux", "a CPU", 2, performanceCores = 2)

/** With room, and without a journal, unless a test says otherwise. */
fun place(caches: File?, room: Room = Room(1 shl 20), condition: (Double) -> Condition = { Condition(it) }) =
    Place({ DEVICE }, { room }, condition, caches) { null }

/** What each language writes to tests/fixtures/results, with its own harness. */
fun example(): Results = Results(
    created = "2026-01-02T03:04:05Z",
    device = DEVICE,
    export = ExportIdentity("tiny", "2:3", "ab".repeat(32), 1000, 990, 1200),
    settings = Settings("kotlin", "executorch 1.5.1", 1, weightCache = true, packedCache = true),
    load = Load(first = Samples(listOf(2.0)), later = Samples(listOf(0.1, 0.3, 0.2))),
    firstToken = FirstToken(TokenSamples(listOf(2.5), 8), TokenSamples(listOf(0.5, 0.75), 8)),
    forward = Samples(listOf(0.01, 0.02, 0.03, 0.02, 0.02)),
    decode = TokenSamples(listOf(0.5, 0.25, 1.0), 10),
    tokenLatency = Samples(listOf(0.05, 0.025, 0.1)),
    decodeAtDepth = listOf(DepthSamples(4, listOf(0.5), 10)),
    threadsSweep = listOf(ThreadsSamples(2, TokenSamples(listOf(0.25), 8), TokenSamples(listOf(0.5), 10))),
    sustained = listOf(Window(1.5, 20, 1.25)),
    memory = Memory(10, 20, 40, 15, 30),
    idleMemory = Memory(1, 2, 3),
    conditions = listOf(Condition(0.0, "nominal", listOf(1_000_000_000, 2_000_000_000), 3_000_000, 0.5, false, 25.5)),
    likeliest = listOf(Likely(7, 1.5), Likely(9, -0.25)),
    tokens = listOf(1, 2, 3),
    expectedTokens = listOf(1, 2, 4),
    warnings = listOf("w"),
).failed("the system took the memory away")

val FIXTURES = File(System.getProperty("sharp.fixtures", "../../tests/fixtures/results"))

/** Writes this language's fixture. */
fun main() = example().write(File(FIXTURES, "kotlin.json"))
