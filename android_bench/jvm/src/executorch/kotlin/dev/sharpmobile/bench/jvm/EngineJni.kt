package dev.sharpmobile.bench.jvm

/** The functions of engine_jni.cpp; load its library first. A failure there is thrown as a Failure with its line. */
object EngineJni {
    @JvmStatic external fun runtime(): String

    @JvmStatic external fun open(pte: String, threads: Int, packedCache: String?): Long

    @JvmStatic external fun step(handle: Long, tokens: LongArray, position: Long): FloatArray

    @JvmStatic external fun close(handle: Long)
}
