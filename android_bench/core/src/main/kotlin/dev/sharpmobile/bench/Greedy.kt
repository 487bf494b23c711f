// The likeliest tokens.

package dev.sharpmobile.bench

object Greedy {
    /** The likeliest token; the first of equals. */
    fun argmax(logits: FloatArray): Long {
        var best = 0
        for (token in 1 until logits.size) if (logits[token] > logits[best]) best = token
        return best.toLong()
    }

    /** The likeliest tokens with their logits, in descending order; of equal ones the smaller token comes first. */
    fun likeliest(logits: FloatArray, count: Int): List<Likely> =
        logits.indices.sortedWith(compareByDescending<Int> { logits[it] }.thenBy { it }).take(count)
            .map { Likely(it.toLong(), logits[it].toDouble()) }

    /** `count` tokens one after the other, from a prediction that stands; each of them but the last is fed. */
    fun continued(model: LoadedModel, logits: FloatArray, position: Int, count: Int): List<Long> {
        val tokens = mutableListOf<Long>()
        var predicted = logits
        while (tokens.size < count) {
            val token = argmax(predicted)
            tokens.add(token)
            if (tokens.size < count) predicted = model.step(longArrayOf(token), position + tokens.size - 1L)
        }
        return tokens
    }
}
