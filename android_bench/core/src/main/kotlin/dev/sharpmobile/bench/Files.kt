// Files that are written completely or not at all, and hashes of files.

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException
import java.security.MessageDigest

private const val BLOCK = 1 shl 20

/** Write a text file under a temporary name, then rename it; its directory is created. */
fun replaceText(file: File, text: String) {
    val partial = File("$file.partial")
    try {
        file.absoluteFile.parentFile?.mkdirs()
        partial.writeText(text)
        renameOver(partial, file)
    } catch (error: IOException) {
        throw Failure("$file: cannot be written: ${told(error)}; make room, or choose another place")
    } finally {
        partial.delete()
    }
}

/** Put a file in another one's place, in one step. */
fun renameOver(source: File, target: File) {
    if (!source.renameTo(target)) throw Failure("$target: cannot be written; choose another place")
}

/** SHA-256 of a file's bytes, in hexadecimal; read in blocks, so that it may be larger than memory. */
fun sha256Of(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(BLOCK)
    try {
        file.inputStream().use { stream ->
            while (true) {
                val count = stream.read(block)
                if (count < 0) break
                digest.update(block, 0, count)
            }
        }
    } catch (error: IOException) {
        throw Failure("$file: cannot be read: ${told(error)}; copy it again")
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}

/** Size of a file; null where there is none. */
fun fileBytes(file: File): Long? = if (file.isFile) file.length() else null
