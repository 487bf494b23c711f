// ExecuTorch by its Kotlin API. Plain Kotlin, so that it also runs on a computer (jvm/).
//
// That API hands backends whole numbers only (BackendOptionsMap.setInt), and XNNPACK's weight cache and the path of its
// packed weights are a boolean and a text. So the weight cache is as the library was built: on, by ExecuTorch's preset
// for Android. And every launch packs anew.

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.Engine
import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.LoadedModel
import dev.sharpmobile.bench.Memory
import dev.sharpmobile.bench.told
import java.io.File
import java.nio.FloatBuffer
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** bytes: of this process now. */
class ExecuTorchEngine(
    override val harness: String,
    override val runtime: String,
    override val cpuClass: String,
    private val bytes: () -> Memory,
) : Engine {
    override val weightCache = true
    override val packedCache = false
    override val limits = listOf(
        "ExecuTorch's Kotlin API cannot set where packed weights are kept: every launch packs anew, and there is no " +
            "later load",
        "ExecuTorch's Kotlin API can neither set nor report XNNPACK's weight cache: it is taken to be on, as the " +
            "library is built for Android",
    )

    override fun load(pte: File, threads: Int, packedCache: File?): LoadedModel {
        try {
            val module = Module.load(pte.path, Module.LOAD_MODE_MMAP, threads)
            try {
                module.loadMethod("forward")
                return ModuleModel(module)
            } catch (error: RuntimeException) {
                module.destroy()
                throw error
            }
        } catch (error: RuntimeException) {
            throw Failure("${pte.parentFile?.name}: cannot be loaded: ${told(error)}; copy the export again")
        } catch (error: LinkageError) {
            throw Failure("ExecuTorch's library is not there for this CPU: ${told(error)}; build the app for it")
        }
    }

    override fun memory(): Memory = bytes()
}

private class ModuleModel(private val module: Module) : LoadedModel {
    override fun step(tokens: LongArray, position: Long): FloatArray {
        val input = EValue.from(Tensor.fromBlob(tokens, longArrayOf(1, tokens.size.toLong())))
        val start = EValue.from(Tensor.fromBlob(longArrayOf(position), longArrayOf(1)))
        val output = module.forward(input, start)[0].toTensor()
        val logits = FloatArray(output.shape().last().toInt())
        // The buffer is the runtime's own memory: only the last position's logits are copied out of it.
        val values = (output.getRawDataBuffer() as FloatBuffer).duplicate()
        values.position(values.limit() - logits.size)
        values.get(logits)
        return logits
    }

    override fun close() = module.destroy()
}
