package dev.sharpmobile.bench

/** A failure that its reader can act on: one sentence that names the file and the way out. */
class Failure(message: String) : Exception(message)

/** One line for anything that was thrown. */
fun told(error: Throwable): String = error.message?.lineSequence()?.firstOrNull { it.isNotBlank() } ?: error.toString()
