// The likeliest tokens.

package dev.sharpmobile.bench

object Greedy {
    /** The token with the largest logit; of equal ones the first. */
    fun argmax(logits: FloatArray): Long {
        var best = 0
        for (token in 1 until logits.size) if (logits[token] > logits[best]) best = token
        return best.toLong()
    }

    /** The tokens with the largest logits, in descending order; of equal ones the smaller token comes first. */
    fun likeliest(logits: FloatArray, count: Int): List<Likely> {
        val order = logits.indices.sortedWith(compareByDescending<Int> { logits[it] }.thenBy { it })
        return order.take(count).map { Likely(it.toLong(), logits[it].toDouble()) }
    }

    /** The likeliest tokens one after the other, from the prediction that stands; each of them but the last is fed. */
    fun continuation(
        model: LoadedModel, logits: FloatArray, position: Long, count: Int, stop: List<Long>,
    ): List<Long> {
        val tokens = mutableListOf<Long>()
        var next = logits
        while (tokens.size < count) {
            val token = argmax(next)
            tokens.add(token)
            if (tokens.size == count || token in stop) break
            next = model.step(longArrayOf(token), position + tokens.size - 1)
        }
        return tokens
    }
}
