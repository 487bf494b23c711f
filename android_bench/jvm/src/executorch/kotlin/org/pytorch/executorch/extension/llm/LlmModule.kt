// Signatures only: the wheel that engine_jni.cpp links has no text runner.

package org.pytorch.executorch.extension.llm

import java.io.Closeable

class LlmModule private constructor() : Closeable {
    constructor(modulePath: String, tokenizerPath: String, temperature: Float) : this() {
        signatureOnly("$modulePath, $tokenizerPath, $temperature")
    }

    fun load(): Unit = signatureOnly("load")

    fun generate(prompt: String, seqLen: Int, llmCallback: LlmCallback, echo: Boolean): Unit =
        signatureOnly("generate $prompt, $seqLen, $llmCallback, $echo")

    fun stop(): Unit = signatureOnly("stop")

    fun resetContext(): Unit = signatureOnly("resetContext")

    override fun close(): Unit = signatureOnly("close")
}

private fun signatureOnly(what: String): Nothing =
    throw UnsupportedOperationException("there is no text runner on a computer: $what")
