// The likeliest tokens.

package dev.sharpmobile.bench

import kotlin.math.max

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

    /** Greedy tokens after `logits`, up to a stop token; each of them but the last is fed. */
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

    /** Feed `count` greedy tokens after `logits`; the seconds of each: its step and the choice of the next token. */
    fun timedContinuation(model: LoadedModel, logits: FloatArray, position: Long, count: Int): List<Double> {
        var token = argmax(logits)
        return List(count) { index ->
            val start = System.nanoTime()
            token = argmax(model.step(longArrayOf(token), position + index))
            max(1, System.nanoTime() - start) / 1e9
        }
    }
}
