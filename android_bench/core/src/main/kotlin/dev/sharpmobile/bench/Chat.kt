// One question at a time to a model that answers piece by piece, with how fast it answers.

package dev.sharpmobile.bench

import java.util.concurrent.atomic.AtomicBoolean

/** ExecuTorch's text runner, or a fake one in tests. */
interface TextGenerator {
    /** Generate text after a prompt, at most `limit` tokens with the prompt's; `piece` gets each token's text. */
    fun generate(prompt: String, limit: Int, piece: (String) -> Unit)

    /** End `generate` early; from any thread. */
    fun stop()
}

/** An answer until now. tokensPerSecond: of the tokens after the first; null before the second. */
data class Answer(
    val text: String = "",
    val tokens: Int = 0,
    val firstTokenSeconds: Double? = null,
    val tokensPerSecond: Double? = null,
)

/** clock: seconds. */
class Chat(private val generator: TextGenerator, private val clock: () -> Double = { System.nanoTime() / 1e9 }) {
    private val answering = AtomicBoolean(false)

    /** Answer a prompt; `say` gets the answer after each piece. */
    fun ask(prompt: String, limit: Int, say: (Answer) -> Unit): Answer {
        if (prompt.isBlank()) throw Failure("the prompt is empty; write one")
        if (!answering.compareAndSet(false, true)) throw Failure("an answer is being written; stop it first")
        try {
            val asked = clock()
            var first = 0.0
            var answer = Answer()
            generator.generate(prompt, limit) { piece ->
                val now = clock()
                if (answer.tokens == 0) first = now
                val rate = if (answer.tokens > 0 && now > first) answer.tokens / (now - first) else null
                answer = Answer(answer.text + piece, answer.tokens + 1, first - asked, rate)
                say(answer)
            }
            return answer
        } finally {
            answering.set(false)
        }
    }

    /** End the answer that is being written, if there is one. */
    fun stop() {
        if (answering.get()) generator.stop()
    }
}
