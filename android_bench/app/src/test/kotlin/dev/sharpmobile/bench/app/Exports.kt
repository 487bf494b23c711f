package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Json
import java.io.File
import java.nio.file.Files

/** An export whose .pte is a line of text. */
fun export(name: String): ExportFolder {
    val directory = File(Files.createTempDirectory("sharp").toFile(), name).also { it.mkdirs() }
    val pte = File(directory, "model.pte").also { it.writeText("a program") }
    val manifest = mapOf(
        "format_version" to 1, "name" to name, "plan" to "none", "sha256" to "",
        "sizes" to mapOf("file" to pte.length(), "tensors" to 0, "shared" to 0, "recovery" to 0),
        "metadata" to mapOf("get_max_context_len" to 16, "get_eos_ids" to listOf<Int>()),
        "expected" to mapOf("prompt_tokens" to listOf(1), "tokens" to listOf(2)),
    )
    File(directory, "manifest.json").writeText(Json.write(manifest))
    return ExportFolder.open(directory)
}
