// Benchmark exports in alternation; the same as sharp_mobile/bench/host.py with host_bench/runner.cpp.
//
//     check and generate: runtime, room, hash, greedy tokens of each export
//     repetition 1:   export A: first, later, answer   export B: first, later, answer
//     repetition 2:   export A: first, later, answer   export B: first, later, answer
//     …
//     threads sweep   if the plan has one: each export, one launch a count of threads
//     sustained       if the plan has one: each export, one launch
//
// Alternating spreads the device's other work over all exports; read the medians. Before each export's turn the device
// gets the plan's time to cool down. An export that fails keeps what was measured of it, and the others go on.

package dev.sharpmobile.bench

import java.io.File

/** Why a run ends early: its user stopped it, or the app left the screen. */
enum class Stop { USER, BACKGROUND }

/**
 * How a run sees its device. device: what it is; room: what is free; condition: how it is now; caches: the directory of
 * packed weights; journal: where an export's results go.
 */
class Place(
    val device: () -> Device,
    val room: () -> Room,
    val condition: (Double) -> Condition,
    val caches: File?,
    val journal: (ExportFolder) -> Journal?,
)

object BenchProtocol {
    /** Measure exports; results in their order. say: gets lines of progress. stop: asked between launches. */
    fun run(
        exports: List<ExportFolder>, plan: Plan, engine: Engine, place: Place,
        say: (String) -> Unit, stop: () -> Stop?,
    ): List<Results> {
        val sampler = Sampler(place.condition)
        sampler.start()
        val benches = try {
            exports.map { Bench(it, plan.fitted(it), engine, place, sampler, stop) }.also { all ->
                for (bench in all) bench.waits()
                check(all, stop)
                repeat(all, plan, say, stop)
                sweep(all, plan, say, stop)
                sustain(all, plan, say, stop)
            }
        } finally {
            sampler.stop()
        }
        return benches.map { it.finish() } // again those that have failed, now with all conditions
    }

    private fun check(benches: List<Bench>, stop: () -> Stop?) {
        for ((index, bench) in benches.withIndex()) {
            if (stop() != null) return
            val same = benches.take(index).firstOrNull { it.export.identity.sha256 == bench.export.identity.sha256 }
            bench.attempt("the check") { bench.check(same?.export) }
            bench.attempt("the first words") { bench.generate() }
        }
    }

    private fun repeat(benches: List<Bench>, plan: Plan, say: (String) -> Unit, stop: () -> Stop?) {
        for (repetition in 1..plan.repetitions) {
            for (bench in benches.filter { it.error == null }) {
                coolDown(plan, stop)
                if (stop() != null) return
                say("repetition $repetition of ${plan.repetitions}: ${bench.export.name}")
                bench.attempt("the first launch") { bench.first() }
                if (stop() != null) return
                bench.attempt("a later launch") { bench.later() }
                if (stop() != null) return
                bench.attempt("the launch for the first token") { bench.answer() }
            }
        }
    }

    private fun sweep(benches: List<Bench>, plan: Plan, say: (String) -> Unit, stop: () -> Stop?) {
        for (bench in benches.filter { it.error == null && it.threadCounts.isNotEmpty() }) {
            coolDown(plan, stop)
            for (threads in bench.threadCounts) {
                if (stop() != null) return
                say("$threads threads: ${bench.export.name}")
                bench.attempt("the threads sweep") { bench.sweep(threads) }
            }
        }
    }

    private fun sustain(benches: List<Bench>, plan: Plan, say: (String) -> Unit, stop: () -> Stop?) {
        if (plan.sustain == 0) return
        for (bench in benches.filter { it.error == null }) {
            coolDown(plan, stop)
            if (stop() != null) return
            val line = { passed: Int -> say("sustained: ${bench.export.name}, $passed of ${plan.sustain} s") }
            bench.attempt("the sustained run") { bench.sustain(line) }
        }
    }

    /** Wait before an export's turn; a stop ends the wait. */
    private fun coolDown(plan: Plan, stop: () -> Stop?) {
        val end = System.nanoTime() + plan.coolDown * 1_000_000_000L
        while (System.nanoTime() < end && stop() == null) Thread.sleep(PAUSE_MS)
    }

    private const val PAUSE_MS = 100L
}
