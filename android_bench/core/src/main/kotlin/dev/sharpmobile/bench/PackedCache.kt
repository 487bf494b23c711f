// XNNPACK's packed weights on disk between launches, believed only while they are what a launch of ours left.
//
//     <key>.packed   what XNNPACK wrote: packed weights, and an index of them
//     <key>.json     its seal: the key, the file's size and its SHA-256
//
//     key = SHA-256(the .pte's SHA-256, the runtime's version, the CPU)
//
// XNNPACK looks at the places of entries in the file, not at their bytes: a file with a flipped bit answers wrongly,
// without a word. So it is hashed before every launch, outside what is timed; one that is damaged, stale or half made
// is deleted. Entries of another CPU are packed anew and appended: a file that a launch has changed is thrown away too.
// The rules and the seal are those of sharp_mobile/bench/packed_cache.py.

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException
import java.security.MessageDigest

class PackedCache(private val directory: File, private val key: String) {
    // Shortened, because XNNPACK takes paths of 255 bytes at most; the seal holds the whole key.
    val path = File(directory, "${key.take(16)}.packed")
    private val sealPath = File(directory, "${key.take(16)}.json")

    companion object {
        /** The name under which packed weights of a program, a runtime's version and a CPU are kept. */
        fun key(pteSha256: String, runtime: String, cpu: String): String =
            MessageDigest.getInstance("SHA-256").digest("$pteSha256\u0000$runtime\u0000$cpu".toByteArray())
                .joinToString("") { "%02x".format(it) }
    }

    /** Have the next launch pack anew. */
    fun delete() {
        sealPath.delete()
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
        replaceText(sealPath, Json.write(measured()))
    }

    /** Make the file anew by a launch that is given its path; a launch that fails leaves none. */
    fun <T> make(launch: (File) -> T): T {
        delete()
        try {
            directory.mkdirs()
            val launched = launch(path)
            seal()
            return launched
        } catch (error: Throwable) {
            delete()
            throw error
        }
    }

    /** Run a launch with the file as it was sealed, having `pack` pack first where that is needed. */
    fun <T> usedBy(launch: (File) -> T, pack: (File) -> Unit): T {
        repeat(2) {
            if (!believed()) make(pack)
            val before = changes()
            val launched = launch(path)
            if (changes() == before) return launched
            delete()
        }
        throw Failure("$path: XNNPACK refuses what it has packed itself; run without packed weights on disk")
    }

    /** Take the packed weights that an export brings, if they are for this program, runtime and CPU, and whole. */
    fun bring(packed: PackedWeights, export: ExportFolder, runtime: String, cpuClass: String): Boolean {
        val source = File(export.directory, packed.file)
        val made = Triple(packed.runtime.majorMinor, packed.cpuClass, packed.pteSha256)
        if (made != Triple(runtime.majorMinor, cpuClass, export.identity.sha256)) return false
        if (fileBytes(source) != packed.bytes || sha256Of(source) != packed.sha256) {
            throw Failure("$source: is damaged or gone, and was not used; copy the export again")
        }
        make { path ->
            try {
                source.copyTo(path)
            } catch (error: IOException) {
                throw Failure("$path: cannot be written: ${told(error)}; make room for it")
            }
        }
        return true
    }

    private fun sealed(): Any? = try {
        Json.parse(sealPath.readText())
    } catch (_: IOException) {
        null
    } catch (_: IllegalArgumentException) {
        null
    }

    private fun measured(): Map<String, Any?> =
        linkedMapOf("key" to key, "bytes" to path.length(), "sha256" to sha256Of(path))

    private fun changes() = path.length() to path.lastModified()
}
