// Signatures of org.pytorch:executorch-android 1.5.1 that the app calls.

package org.pytorch.executorch

import java.nio.Buffer

open class Module private constructor() {
    open fun forward(vararg inputs: EValue): Array<EValue> = signatureOnly()

    open fun loadMethod(methodName: String): Unit = signatureOnly()

    open fun destroy(): Unit = signatureOnly()

    companion object {
        const val LOAD_MODE_FILE = 0
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module = signatureOnly()
    }
}

class EValue private constructor() {
    fun toTensor(): Tensor = signatureOnly()

    companion object {
        @JvmStatic fun from(tensor: Tensor): EValue = signatureOnly()
    }
}

abstract class Tensor internal constructor() {
    fun shape(): LongArray = signatureOnly()

    open fun getRawDataBuffer(): Buffer = signatureOnly()

    companion object {
        @JvmStatic fun fromBlob(data: LongArray, shape: LongArray): Tensor = signatureOnly()
    }
}

private fun signatureOnly(): Nothing = throw UnsupportedOperationException("a signature for the type check")
