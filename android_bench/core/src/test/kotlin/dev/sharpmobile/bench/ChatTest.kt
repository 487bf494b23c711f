package dev.sharpmobile.bench

import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class ChatTest {
    private class Echo(private val before: (Int) -> Unit = {}) : TextGenerator {
        @Volatile var stopped = false

        override fun generate(prompt: String, limit: Int, piece: (String) -> Unit) {
            for ((index, word) in prompt.split(' ').take(limit).withIndex()) {
                before(index)
                if (stopped) return
                piece("$word ")
            }
        }

        override fun stop() {
            stopped = true
        }
    }

    @Test
    fun anAnswerGrowsAndIsTimed() {
        val times = listOf(10.0, 12.0, 12.5, 13.0).iterator()
        val said = mutableListOf<Answer>()
        val answer = Chat(Echo(), { times.next() }).ask("a b c d", 3, said::add)
        val whole = Answer("a b c ", 3, 2.0, 2.0)
        assertEquals(listOf(Answer("a ", 1, 2.0, null), Answer("a b ", 2, 2.0, 2.0), whole), said)
        assertEquals(whole, answer)
    }

    @Test
    fun aStoppedAnswerKeepsItsText() {
        lateinit var chat: Chat
        chat = Chat(Echo { if (it == 1) chat.stop() })
        assertEquals("a ", chat.ask("a b c", 9) {}.text)
    }

    @Test
    fun oneQuestionAtATime() {
        val (asked, answered) = CountDownLatch(1) to CountDownLatch(1)
        val chat = Chat(Echo {
            asked.countDown()
            answered.await()
        })
        val first = thread { chat.ask("a", 9) {} }
        asked.await()
        val failure = assertFailsWith<Failure> { chat.ask("b", 9) {} }
        assertEquals("an answer is being written; stop it first", failure.message)
        answered.countDown()
        first.join()
        assertEquals("c ", chat.ask("c", 9) {}.text)
        assertEquals("the prompt is empty; write one", assertFailsWith<Failure> { chat.ask(" ", 9) {} }.message)
    }
}
