// What the app calls of ExecuTorch's Module, around engine_jni.cpp: the app's own engine runs a .pte on a computer.
//
// The files below org/pytorch/executorch have the signatures of ExecuTorch's Kotlin API that the app uses, and no more.
// The app is compiled against them where there is no Android SDK; typecheck/compare-with-sources compares them with
// ExecuTorch's sources. They are no part of the app: Gradle takes the library itself.

package org.pytorch.executorch

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.jvm.EngineJni
import java.io.File

open class Module private constructor(private val path: String, private val threads: Int) {
    private var handle = 0L

    open fun forward(vararg inputs: EValue): Array<EValue> {
        val (tokens, position) = inputs.map { (it.toTensor() as LongTensor).values() }
        val logits = native { EngineJni.step(loaded(), tokens, position.single()) }
        return arrayOf(EValue.from(FloatTensor(logits, longArrayOf(1, logits.size.toLong()))))
    }

    open fun loadMethod(methodName: String) {
        if (methodName != "forward") throw RuntimeException("Failed to load method: $methodName")
        loaded()
    }

    open fun destroy() {
        if (handle != 0L) EngineJni.close(handle)
        handle = 0
    }

    private fun loaded(): Long {
        if (handle == 0L) handle = native { EngineJni.open(path, threads, null) }
        return handle
    }

    companion object {
        private const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module {
            require(modelPath != null && File(modelPath).canRead()) { "Cannot load model path $modelPath" }
            // engine.h maps files, and has no other way.
            require(loadMode == LOAD_MODE_MMAP) { "a computer has LOAD_MODE_MMAP only" }
            return Module(modelPath, numThreads)
        }

        /** What fails in ExecuTorch is a RuntimeException. */
        private fun <T> native(work: () -> T): T = try {
            work()
        } catch (failure: Failure) {
            throw RuntimeException(failure.message, failure)
        }
    }
}
