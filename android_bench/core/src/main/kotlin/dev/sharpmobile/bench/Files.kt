// Files that are written whole or not at all, and what is known of a file without believing its name.

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/** Write a text under a temporary name, then rename; its directory is created. */
fun replaceText(path: File, text: String) {
    val partial = File("$path.partial")
    try {
        path.absoluteFile.parentFile?.mkdirs()
        partial.writeText(text)
        if (!partial.renameTo(path)) throw IOException("it cannot be renamed")
    } catch (error: IOException) {
        throw Failure("$path: cannot be written: ${told(error)}; make room for it, or choose another place")
    } finally {
        partial.delete()
    }
}

/** SHA-256 of a file's bytes, in hexadecimal; read in blocks, so that it may be larger than memory. */
fun sha256Of(path: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(1 shl 20)
    path.inputStream().use { file ->
        while (true) {
            val count = file.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
        }
    }
    return hexadecimal(digest.digest())
}

/** SHA-256 of a text's UTF-8 bytes, in hexadecimal. */
fun sha256Of(text: String): String = hexadecimal(MessageDigest.getInstance("SHA-256").digest(text.toByteArray()))

/** Size of a file; null where there is none. */
fun fileBytes(path: File): Long? = if (path.isFile) path.length() else null

private fun hexadecimal(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
