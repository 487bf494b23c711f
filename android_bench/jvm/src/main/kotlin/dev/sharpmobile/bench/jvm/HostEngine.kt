// ExecuTorch on a computer, through host_bench/engine.h, so that the protocol measures a real .pte without a phone.
//
//     HostEngine ── JNI, engine_jni.cpp ──► host_bench/engine.h ──► the libraries of the ExecuTorch wheel

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Engine
import dev.sharpmobile.bench.LinuxFiles
import dev.sharpmobile.bench.LoadedModel
import dev.sharpmobile.bench.Memory
import java.io.File

class HostEngine : Engine {
    override val harness = "kotlin-jvm"
    override val runtime: String = EngineJni.runtime()
    override val cpuClass = cpuFields().joinToString("; ") { (name, value) -> "$name: $value" }
    override val weightCache = true
    override val packedCache = true
    override val limits = listOf<String>()

    override fun load(pte: File, threads: Int, packedCache: File?): LoadedModel =
        HostModel(EngineJni.open(pte.path, threads, packedCache?.path))

    override fun memory(): Memory = LinuxFiles().memory()
}

private class HostModel(private var handle: Long) : LoadedModel {
    override fun step(tokens: LongArray, position: Long): FloatArray = EngineJni.step(handle, tokens, position)

    override fun close() {
        EngineJni.close(handle)
        handle = 0
    }
}

/** What decides which kernels XNNPACK chooses; the same as packed_cache.py's cpu_class. */
internal fun cpuFields(): List<Pair<String, String>> {
    val wanted = setOf("model name", "flags", "CPU implementer", "CPU part", "Features")
    return File("/proc/cpuinfo").readLines().filter { ':' in it }
        .map { it.substringBefore(':').trim() to it.substringAfter(':').trim() }
        .filter { it.first in wanted }.distinct().sortedWith(compareBy({ it.first }, { it.second }))
}
