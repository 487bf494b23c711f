// One model in memory at a time: the benchmark's or the chat's. Two would share the memory that is being measured.

package dev.sharpmobile.bench.app

import dev.sharpmobile.bench.Failure
import dev.sharpmobile.bench.RunHolder
import dev.sharpmobile.bench.RunState
import dev.sharpmobile.bench.Session
import dev.sharpmobile.bench.Stop
import java.io.File

enum class ModelUser(val busy: String) {
    BENCH("a benchmark is running; wait for its end, or stop it"),
    CHAT("the chat has a model in memory; leave the chat first"),
}

class OneModel {
    private var user: ModelUser? = null

    /** Take the model's place; false if `by` has it already. A Failure while the other one has it. */
    @Synchronized
    fun take(by: ModelUser): Boolean {
        user?.let { if (it != by) throw Failure(it.busy) }
        return (user == null).also { user = by }
    }

    @Synchronized
    fun leave(by: ModelUser) {
        if (user == by) user = null
    }
}

/** The benchmark's runs, which take the model's place from their start to their end. */
class Runs(private val model: OneModel) {
    val holder = RunHolder().also { holder -> holder.watch { if (it is RunState.Ended) model.leave(ModelUser.BENCH) } }

    /** See RunHolder.start. A Failure while the chat has a model. */
    fun start(directories: List<File>, session: (say: (String) -> Unit, stop: () -> Stop?) -> Session): Boolean =
        model.take(ModelUser.BENCH) && holder.start(directories, session)
}
