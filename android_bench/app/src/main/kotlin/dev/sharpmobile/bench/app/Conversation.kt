// The chat's model and its answer. They live outside the screen, which may be recreated while an answer grows.
//
//     ask ──► load, unless that export is loaded ─► the answer, piece by piece ─► the next question
//     close ─► stop, unload: the benchmark may load a model again

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.Answer
import dev.sharpmobile.bench.Chat
import dev.sharpmobile.bench.ExportFolder
import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.TextGenerator
import dev.sharpmobile.bench.told
import java.util.Locale
import java.util.concurrent.Executors

interface ChatModel : TextGenerator, AutoCloseable

/** busy: it loads, or an answer is being written. */
data class Talk(val busy: Boolean = false, val answer: Answer = Answer(), val error: String? = null)

/** load: a model of an export, ready to generate. */
class Conversation(private val model: OneModel, private val load: (ExportFolder) -> ChatModel) {
    private class Loaded(val export: ExportFolder, val model: ChatModel) {
        val chat = Chat(model)
    }

    // One thread for all that touches the model; only `stop` comes from others.
    private val worker = Executors.newSingleThreadExecutor { work -> Thread(work, "chat").also { it.isDaemon = true } }
    private val lock = Any()
    private var talk = Talk()
    private var watcher: ((Talk) -> Unit)? = null
    private var loaded: Loaded? = null
    private var stopped = false

    /** Answer a prompt in the chat's thread. A Failure while an answer is being written, or a benchmark runs. */
    fun ask(export: ExportFolder, prompt: String) {
        synchronized(lock) {
            if (talk.busy) throw Failure("an answer is being written; stop it first")
            model.take(ModelUser.CHAT)
            stopped = false
            become(Talk(busy = true))
        }
        worker.execute { answer(export, prompt) }
    }

    /** End the answer early; what has been written stays. */
    fun stop() {
        synchronized(lock) {
            stopped = true
            loaded?.chat?.stop()
        }
    }

    /** Stop, and unload the model. */
    fun close() {
        stop()
        worker.execute {
            unload()
            model.leave(ModelUser.CHAT)
        }
    }

    /** `watcher` gets the present state at once, and every later one; null for none. */
    fun watch(watcher: ((Talk) -> Unit)?) = synchronized(lock) {
        this.watcher = watcher
        watcher?.invoke(talk)
    }

    private fun answer(export: ExportFolder, prompt: String) {
        val error = try {
            val chat = loaded(export).chat
            if (!synchronized(lock) { stopped }) chat.ask(prompt, export.length) { become(Talk(true, it)) }
            null
        } catch (error: Exception) {
            told(error)
        } catch (error: LinkageError) {
            "ExecuTorch's library is not there for this CPU: ${told(error)}; build the app for it"
        }
        synchronized(lock) { become(talk.copy(busy = false, error = error)) }
    }

    private fun loaded(export: ExportFolder): Loaded {
        val present = loaded
        if (present?.export?.directory == export.directory) return present
        unload() // before the next one, so that there is never more than one
        return Loaded(export, load(export)).also { synchronized(lock) { loaded = it } }
    }

    private fun unload() {
        val present = synchronized(lock) { loaded.also { loaded = null } }
        present?.model?.close()
    }

    private fun become(next: Talk) = synchronized(lock) {
        talk = next
        watcher?.invoke(next)
    }
}

/** "first token after 0.52 s, 12.3 tokens/s", as far as it is known. */
fun speed(talk: Talk): String = listOfNotNull(
    talk.answer.firstTokenSeconds?.let { "first token after %.2f s".format(Locale.ROOT, it) },
    talk.answer.tokensPerSecond?.let { "%.1f tokens/s".format(Locale.ROOT, it) },
).joinToString(", ").ifEmpty { if (talk.busy) "loading" else "" }
