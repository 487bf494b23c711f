// ExecuTorch's own text runner, with the tokenizer that the export brings.

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Failure
import java.io.File
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmModule

private const val GREEDY = 0f

class LlmGenerator(private val export: ExportFolder) : ChatModel {
    private val module = LlmModule(export.pte.path, tokenizer().path, GREEDY)
    @Volatile private var stopped = false

    init {
        try {
            module.load()
        } catch (error: RuntimeException) {
            module.close()
            throw error
        }
    }

    override fun generate(prompt: String, limit: Int, piece: (String) -> Unit) {
        stopped = false
        var problem: String? = null
        val callback = object : LlmCallback {
            override fun onResult(result: String) {
                if (stopped) module.stop() else piece(result) // a stop before the first token is lost in the runner
            }

            override fun onError(errorCode: Int, message: String) {
                problem = message
            }
        }
        module.resetContext() // every question stands alone
        module.generate(prompt, limit, callback, false)
        problem?.let { throw Failure("${export.name}: cannot answer: $it; copy the export again") }
    }

    override fun stop() {
        stopped = true
        module.stop()
    }

    override fun close() = module.close()

    private fun tokenizer(): File = listOf("tokenizer.json", "tokenizer.model").map { File(export.directory, it) }
        .firstOrNull { it.isFile } ?: throw Failure("${export.name}: has no tokenizer.json; copy it into the export")
}
