package org.pytorch.executorch.extension.llm

interface LlmCallback {
    fun onResult(result: String)

    fun onError(errorCode: Int, message: String) {}
}
