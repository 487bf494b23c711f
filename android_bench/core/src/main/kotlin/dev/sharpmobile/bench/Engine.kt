// What runs a model: ExecuTorch on a phone, or the same runtime on a computer. The protocol knows nothing else of it.

package dev.sharpmobile.bench

import java.io.File

interface Engine {
    /** The program that measures: "android", "kotlin-jvm". */
    val harness: String

    /** "executorch 1.5.1". */
    val runtime: String

    /** Packed weights of one CPU fit another one with the same class. */
    val cpuClass: String

    /** Whether XNNPACK packs a shared weight once. */
    val weightCache: Boolean

    /** Whether packed weights can stay on disk between launches. */
    val packedCache: Boolean

    /** What it cannot set or report, in sentences: warnings in all results. */
    val limits: List<String>

    /** Load and init. */
    fun load(pte: File, threads: Int, packedCache: File?): LoadedModel

    /** Bytes of this process now; `peak` and `footprintPeak` are the system's marks of the process's whole life. */
    fun memory(): Memory
}

interface LoadedModel : AutoCloseable {
    /** Run tokens, starting at a position; the logits of the last one. */
    fun step(tokens: LongArray, position: Long): FloatArray

    override fun close()
}
