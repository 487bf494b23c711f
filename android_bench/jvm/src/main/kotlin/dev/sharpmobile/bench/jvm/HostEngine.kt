// ExecuTorch on a computer, through host_bench/engine.h, so that the protocol measures a real .pte without a phone.
//
//     HostEngine ── JNI, engine_jni.cpp ──► host_bench/engine.h ──► the libraries of the ExecuTorch wheel

package dev.sharpmobile.bench.jvm

import dev.sharpmobile.bench.Device
import dev.sharpmobile.bench.Engine
import dev.sharpmobile.bench.LoadedModel
import dev.sharpmobile.bench.Memory
import java.io.File

/** library: the compiled engine_jni.cpp. */
class HostEngine(library: File) : Engine {
    init {
        System.load(library.absolutePath)
    }

    override val harness = "kotlin-jvm"
    override val runtime: String = EngineJni.runtime()
    override val cpuClass = cpuFields().joinToString("; ") { (name, value) -> "$name: $value" }
    override val weightCache = true
    override val packedCache = true
    override val limits = listOf<String>()

    override fun load(pte: File, threads: Int, packedCache: File?): LoadedModel =
        HostModel(EngineJni.open(pte.path, threads, packedCache?.path))

    override fun memory(): Memory {
        val (anonymous, file, peak) = EngineJni.memory()
        return Memory(anonymous, file, peak)
    }

    companion object {
        /** As the kernel calls it, so that the device is the one of results that other programs measured. */
        private val architecture = System.getProperty("os.arch").let { if (it == "amd64") "x86_64" else it }

        /** This machine. */
        fun device(): Device {
            val product = File("/sys/class/dmi/id/product_name")
            val memory = File("/proc/meminfo").readLines().first { it.startsWith("MemTotal:") }
            return Device(
                kind = "host",
                model = if (product.isFile) product.readText().trim() else architecture,
                os = "${System.getProperty("os.name")} ${System.getProperty("os.version")}",
                cpu = cpuFields().toMap()["model name"] ?: architecture,
                cores = Runtime.getRuntime().availableProcessors(),
                memoryBytes = memory.split(Regex("\\s+"))[1].toLong() * 1024,
            )
        }
    }
}

private class HostModel(private var handle: Long) : LoadedModel {
    override fun step(tokens: LongArray, position: Long): FloatArray = EngineJni.step(handle, tokens, position)

    override fun close() {
        EngineJni.close(handle)
        handle = 0
    }
}

/** What decides which kernels XNNPACK chooses; the same as packed_cache.py's cpu_class. */
private fun cpuFields(): List<Pair<String, String>> {
    val wanted = setOf("model name", "flags", "CPU implementer", "CPU part", "Features")
    return File("/proc/cpuinfo").readLines().filter { ':' in it }
        .map { it.substringBefore(':').trim() to it.substringAfter(':').trim() }
        .filter { it.first in wanted }.distinct().sortedWith(compareBy({ it.first }, { it.second }))
}
