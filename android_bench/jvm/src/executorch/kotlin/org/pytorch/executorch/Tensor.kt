package org.pytorch.executorch

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

abstract class Tensor internal constructor(shape: LongArray) {
    private val sizes = shape.copyOf()

    fun shape(): LongArray = sizes.copyOf()

    open fun getRawDataBuffer(): Buffer = throw IllegalStateException("a tensor without data")

    companion object {
        @JvmStatic fun fromBlob(data: LongArray, shape: LongArray): Tensor = LongTensor(data, shape)
    }
}

private fun buffer(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

internal class LongTensor(data: LongArray, shape: LongArray) : Tensor(shape) {
    private val data: LongBuffer = buffer(data.size * Long.SIZE_BYTES).asLongBuffer().put(data).also { it.rewind() }

    override fun getRawDataBuffer(): Buffer = data

    fun values() = LongArray(data.capacity()).also { data.duplicate().get(it) }
}

internal class FloatTensor(data: FloatArray, shape: LongArray) : Tensor(shape) {
    private val data: FloatBuffer = buffer(data.size * Float.SIZE_BYTES).asFloatBuffer().put(data).also { it.rewind() }

    override fun getRawDataBuffer(): Buffer = data
}
