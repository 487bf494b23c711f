// What runs a model: ExecuTorch on a phone, or the same runtime on a computer. The protocol knows no more of it.

package dev.sharpmobile.bench

import java.io.File

interface Engine {
    /** The program that measures: "android", "kotlin-jvm". */
    val harness: String

    /** "executorch 1.5.1". */
    val runtime: String

    /** What CPUs have in common if packed weights of one are good for the other. */
    val cpuClass: String

    /** Whether XNNPACK packs a shared weight once. */
    val weightCache: Boolean

    /** Whether packed weights can be kept on disk between launches. */
    val packedCache: Boolean

    /** What it cannot set or tell, in sentences: warnings of every results. */
    val limits: List<String>

    /** Load and init. */
    fun load(pte: File, threads: Int, packedCache: File?): LoadedModel

    /** Bytes of this process now. */
    fun memory(): Memory
}

interface LoadedModel : AutoCloseable {
    /** Run tokens from a position on; the logits of the last one. */
    fun step(tokens: LongArray, position: Long): FloatArray

    override fun close()
}
