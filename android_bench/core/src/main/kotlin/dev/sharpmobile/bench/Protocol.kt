// Benchmark exports in alternation; the same as sharp_mobile/bench/host.py with host_bench/runner.cpp.
//
//     check and generate: runtime, room, hash, greedy tokens of each export
//     repetition 1:   export A: first, later, answer   export B: first, later, answer
//     repetition 2:   export A: first, later, answer   export B: first, later, answer
//     …
//     threads sweep   if the plan has one: each export, one launch a count of threads
//     sustained       if the plan has one: each export, one launch
//
//     first    load without packed weights ─► a long prompt ─► first token; leaves packed weights
//     later    load with them ─► the prompt ─► warm-ups ─► forwards ─► prefill ─► decode ─► decode at depths
//     answer   load with them ─► a long prompt ─► first token; left out if there is no packed cache
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
            val run = Run(engine, place, sampler, engine.memory(), stop)
            exports.map { Bench(it, plan.fitted(it), run) }.also { measure(it, plan, say, stop) }
        } finally {
            sampler.stop()
        }
        return benches.map { it.finish() } // again those that have failed, now with all conditions
    }

    private fun measure(benches: List<Bench>, plan: Plan, say: (String) -> Unit, stop: () -> Stop?) {
        for (bench in benches) bench.waits()
        for ((index, bench) in benches.withIndex()) {
            val same = benches.take(index).firstOrNull { it.export.identity.sha256 == bench.export.identity.sha256 }
            bench.attempt("the check") { bench.check(same?.export) }
            bench.attempt("the first words") { bench.generate() }
        }
        val turn = { bench: Bench -> bench.error == null && cooled(plan, stop) }
        for (repetition in 1..plan.repetitions) {
            for (bench in benches) {
                if (!turn(bench)) continue
                say("repetition $repetition of ${plan.repetitions}: ${bench.export.name}")
                bench.attempt("the first launch") { bench.first() }
                bench.attempt("a later launch") { bench.later() }
                bench.attempt("the launch for the first token") { bench.answer() }
            }
        }
        for (bench in benches) {
            if (bench.threadCounts.isEmpty() || !turn(bench)) continue
            for (threads in bench.threadCounts) {
                if (bench.error != null || stop() != null) continue
                say("$threads threads: ${bench.export.name}")
                bench.attempt("the threads sweep") { bench.sweep(threads) }
            }
        }
        for (bench in benches) {
            if (plan.sustain == 0 || !turn(bench)) continue
            val report = { passed: Int -> say("sustained: ${bench.export.name}, $passed of ${plan.sustain} s") }
            bench.attempt("the sustained run") { bench.sustain(report) }
        }
    }

    /** Wait before an export's turn; false if the run is stopped. */
    private fun cooled(plan: Plan, stop: () -> Stop?): Boolean {
        val end = System.nanoTime() + plan.coolDown * 1_000_000_000L
        while (stop() == null) {
            if (System.nanoTime() >= end) return true
            Thread.sleep(PAUSE_MS)
        }
        return false
    }

    private const val PAUSE_MS = 100L
}
