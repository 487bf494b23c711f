// The one run of the process. It lives outside the screens: one that is recreated watches again and misses nothing.
//
//     screen ── start ──► idle ─► running(line) … running(line) ─► ended(results, error) ─► the next start
//     screen ◄─ watch ── the present state at once, then every later one

package dev.sharpmobile.bench

import java.io.File

sealed interface RunState {
    data object Idle : RunState

    data class Running(val line: String) : RunState

    /** error: why the run could not be done at all. */
    data class Ended(val results: List<Results>, val error: String?) : RunState
}

class RunHolder {
    private val lock = Any()
    private val watchers = mutableListOf<(RunState) -> Unit>()
    private var state: RunState = RunState.Idle
    private var session: Session? = null
    private var stop: Stop? = null

    /** Begin a run in a thread; false, and nothing happens, while one is under way. */
    fun start(directories: List<File>, session: (say: (String) -> Unit, stop: () -> Stop?) -> Session): Boolean {
        synchronized(lock) {
            if (state is RunState.Running) return false
            stop = null
            become(RunState.Running("opening"))
        }
        Thread({ work(directories, session) }, "bench").start()
        return true
    }

    /** End after the launch that is under way; what has been measured stays. */
    fun stop() = synchronized(lock) { if (stop == null) stop = Stop.USER }

    /** The app has left the screen: the launch that is under way does not count, and its file says so at once. */
    fun background() {
        val interrupted = synchronized(lock) {
            if (state !is RunState.Running) return
            stop = Stop.BACKGROUND
            session
        }
        interrupted?.interrupted()
    }

    /** `watcher` gets the present state at once, and every later one in the run's thread. */
    fun watch(watcher: (RunState) -> Unit) = synchronized(lock) {
        watchers.add(watcher)
        watcher(state)
    }

    fun unwatch(watcher: (RunState) -> Unit) = synchronized(lock) { watchers.remove(watcher) }

    private fun work(directories: List<File>, make: (say: (String) -> Unit, stop: () -> Stop?) -> Session) {
        val ended = try {
            val made = make({ become(RunState.Running(it)) }, { synchronized(lock) { stop } })
            synchronized(lock) { session = made }
            RunState.Ended(made.run(directories), null)
        } catch (error: Throwable) {
            // Whatever ended it: a screen must not wait for a run that is over.
            RunState.Ended(listOf(), told(error))
        }
        synchronized(lock) {
            session = null
            become(ended)
        }
    }

    private fun become(next: RunState) = synchronized(lock) {
        state = next
        for (watcher in watchers.toList()) watcher(next)
    }
}
