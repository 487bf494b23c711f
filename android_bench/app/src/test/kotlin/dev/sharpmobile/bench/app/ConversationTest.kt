package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.Memory
import dev.sharpmobile.bench.Plan
import dev.sharpmobile.bench.Room
import dev.sharpmobile.bench.RunState
import dev.sharpmobile.bench.Session
import java.util.Collections
import java.util.concurrent.CountDownLatch
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** The chat and the benchmark, with a model that repeats the prompt's words. */
class ConversationTest {
    private val model = OneModel()
    private val calls: MutableList<String> = Collections.synchronizedList(mutableListOf())
    private val talks = LinkedBlockingQueue<Talk>()
    private var go = CountDownLatch(0)

    private inner class Echo(private val export: ExportFolder) : ChatModel {
        @Volatile private var stopped = false

        override fun generate(prompt: String, limit: Int, piece: (String) -> Unit) {
            stopped = false
            for (word in prompt.split(' ').take(limit)) {
                piece("$word ")
                go.await(20, TimeUnit.SECONDS)
                if (stopped) return
            }
        }

        override fun stop() {
            stopped = true
        }

        override fun close() {
            calls.add("close ${export.name}")
        }
    }

    private val conversation = Conversation(model) { export ->
        calls.add("load ${export.name}")
        if (export.name == "broken") throw Failure("broken: has no tokenizer.json; copy it into the export")
        Echo(export)
    }

    private fun next(wanted: (Talk) -> Boolean): Talk {
        while (true) {
            val talk = talks.poll(20, TimeUnit.SECONDS) ?: throw AssertionError("the chat said nothing more")
            if (wanted(talk)) return talk
        }
    }

    private fun ended() = next { !it.busy }

    private fun free() {
        val end = System.nanoTime() + 20e9
        while (System.nanoTime() < end) {
            try {
                if (model.take(ModelUser.BENCH)) return model.leave(ModelUser.BENCH)
            } catch (_: Failure) {
                Thread.sleep(5)
            }
        }
        throw AssertionError("the chat did not leave")
    }

    @Test
    fun aModelStaysLoadedUntilTheNextExportOrTheEnd() {
        val (a, b) = listOf("a", "b").map(::export)
        conversation.ask(a, "one two")
        conversation.watch(talks::add)
        assertEquals("one two ", ended().answer.text)
        conversation.ask(a, "three")
        assertEquals("three ", ended().answer.text)
        conversation.ask(b, "four")
        assertEquals("four ", ended().answer.text)
        conversation.close()
        free()
        assertEquals(listOf("load a", "close a", "load b", "close b"), calls)
    }

    @Test
    fun anAnswerGrowsOnARecreatedScreenAndIsStopped() {
        go = CountDownLatch(1)
        val a = export("a")
        val old = LinkedBlockingQueue<Talk>()
        conversation.watch(old::add)
        conversation.ask(a, "one two three")
        while (old.poll(20, TimeUnit.SECONDS)!!.answer.text.isEmpty()) continue
        conversation.watch(null)
        conversation.watch(talks::add) // the new screen
        val shown = talks.poll()!!
        assertEquals("one ", shown.answer.text)
        assertTrue(shown.busy)
        assertTrue(speed(shown).startsWith("first token after "))
        val refused = assertThrows(Failure::class.java) { conversation.ask(a, "four") }
        assertEquals("an answer is being written; stop it first", refused.message)
        conversation.stop()
        go.countDown()
        assertEquals("one ", ended().answer.text)
    }

    @Test
    fun whatCannotBeLoadedIsAnError() {
        conversation.watch(talks::add)
        talks.clear()
        conversation.ask(export("broken"), "one")
        assertEquals("broken: has no tokenizer.json; copy it into the export", ended().error)
        conversation.ask(export("a"), " ")
        assertEquals("the prompt is empty; write one", ended().error)
    }

    @Test
    fun theBenchmarkAndTheChatNeverHaveAModelAtTheSameTime() {
        val runs = Runs(model)
        val states = LinkedBlockingQueue<RunState>()
        runs.holder.watch(states::add)
        val (begun, end) = CountDownLatch(1) to CountDownLatch(1)
        val engine = ExecuTorchEngine("x", "executorch 1.5.1", "a CPU") { Memory(0, 0, 0) }
        val run = {
            runs.start(listOf()) { say, stop ->
                begun.countDown()
                end.await(20, TimeUnit.SECONDS)
                val never = { throw Failure("there is no export to ask this for") }
                Session(Plan(), engine, never, { Room(0) }, { never() }, null, null, { it }, say, stop)
            }
        }
        val a = export("a")
        assertTrue(run())
        begun.await()
        assertFalse(run())
        val refused = assertThrows(Failure::class.java) { conversation.ask(a, "one") }
        assertEquals("a benchmark is running; wait for its end, or stop it", refused.message)
        assertEquals(listOf<String>(), calls)
        end.countDown()
        while (states.poll(20, TimeUnit.SECONDS) !is RunState.Ended) continue
        conversation.watch(talks::add)
        talks.clear()
        conversation.ask(a, "one")
        assertEquals("one ", ended().answer.text)
        val busy = assertThrows(Failure::class.java) { run() }
        assertEquals("the chat has a model in memory; leave the chat first", busy.message)
        conversation.close()
        free()
        assertTrue(run())
    }
}
