package dev.sharpmobile.bench.jvm

/** The functions of engine_jni.cpp. What fails there comes as a Failure with its line. */
internal object EngineJni {
    @JvmStatic external fun runtime(): String

    @JvmStatic external fun open(pte: String, threads: Int, packedCache: String?): Long

    @JvmStatic external fun step(handle: Long, tokens: LongArray, position: Long): FloatArray

    @JvmStatic external fun close(handle: Long)

    /** Bytes: anonymous, file, peak. */
    @JvmStatic external fun memory(): LongArray
}
