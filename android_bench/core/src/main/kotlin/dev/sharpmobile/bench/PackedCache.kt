// XNNPACK's packed weights on disk between launches, believed only while they are what a launch of ours left.
//
//     <key>.packed   what XNNPACK wrote: packed weights, and an index of them
//     <key>.json     its seal: the key, the file's size and its SHA-256
//
//     key = SHA-256(the .pte's SHA-256, the runtime's version, the CPU)
//
// XNNPACK looks at the places of entries in the file, not at their bytes: a file with a flipped bit answers wrongly,
// without a word. So it is hashed before every launch, outside what is timed; one that is damaged, stale or half made is
// deleted. Entries of another CPU are packed anew and appended: a file that a launch has changed is thrown away too.
// The rules and the seal are those of sharp_mobile/bench/packed_cache.py.

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException

class PackedCache(directory: File, private val key: String) {
    // Shortened, because XNNPACK takes paths of 255 bytes at most; the seal holds the whole key.
    val path = File(directory, "${key.take(16)}.packed")
    private val seal = File(directory, "${key.take(16)}.json")

    init {
        directory.mkdirs()
    }

    /** Have the next launch pack anew. */
    fun delete() {
        seal.delete()
        path.delete()
    }

    /** Whether the file is what its seal says; deletes it if not. */
    fun believed(): Boolean {
        if (path.isFile && sealed() == measured()) return true
        delete()
        return false
    }

    /** Vouch for what a launch has just written. */
    fun seal() {
        if (!path.isFile) throw Failure("$path: XNNPACK wrote no packed weights there; is the disk full?")
        replaceText(seal, Json.write(measured()))
    }

    /** Make the file anew by a launch that is given its path; a launch that fails leaves none. */
    fun <T> make(launch: (File) -> T): T {
        delete()
        try {
            return launch(path).also { seal() }
        } catch (error: Throwable) {
            delete()
            throw error
        }
    }

    /** Run a launch with the file as it was sealed, having `make` pack first where that is needed. */
    fun <T> usedBy(launch: (File) -> T, make: (File) -> Unit): T {
        repeat(2) {
            if (!believed()) make(make)
            val before = changes()
            val result = launch(path)
            if (changes() == before) return result
            delete()
        }
        throw Failure("$path: XNNPACK refuses what it has packed itself; run without packed weights")
    }

    /** Put packed weights that an export brings in the file's place; whether they are whole and there now. */
    fun bring(packed: PackedWeights, export: ExportFolder): Boolean {
        val source = File(export.directory, packed.file)
        if (fileBytes(source) != packed.bytes || sha256Of(source) != packed.sha256) return false
        delete()
        val partial = File("$path.partial")
        try {
            source.copyTo(partial, overwrite = true)
            if (!partial.renameTo(path)) return false
        } catch (error: IOException) {
            throw Failure("$path: cannot be written: ${told(error)}; make room for it")
        } finally {
            partial.delete()
        }
        seal()
        return true
    }

    private fun sealed(): Any? = try {
        Json.parse(seal.readText())
    } catch (_: IOException) {
        null
    } catch (_: IllegalArgumentException) {
        null
    }

    private fun measured(): Map<String, Any?> =
        linkedMapOf("key" to key, "bytes" to path.length(), "sha256" to sha256Of(path))

    private fun changes() = path.length() to path.lastModified()

    companion object {
        /** The name under which packed weights of a program, a runtime and a CPU are kept. */
        fun key(pteSha256: String, runtime: String, cpu: String): String =
            sha256Of(listOf(pteSha256, runtime, cpu).joinToString("\u0000"))
    }
}
