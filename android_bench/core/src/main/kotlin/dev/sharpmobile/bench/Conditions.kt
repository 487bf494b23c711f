// The device's condition during a run: how hot it is, how fast its CPUs run, what its battery gives.
//
//     start ──► a sample now ─► one every 2 s, by a thread, so also while a launch runs ─► stop: a last sample

package dev.sharpmobile.bench

import java.util.concurrent.locks.ReentrantLock
import kotlin.concurrent.withLock

/**
 * at: seconds since the start of the run. thermal: the system's word. clocksHz: of each CPU. chargeUah: of the battery.
 * batteryLevel: 0 to 1. What the device does not report is null or empty.
 */
data class Condition(
    val at: Double,
    val thermal: String? = null,
    val clocksHz: List<Long> = listOf(),
    val chargeUah: Long? = null,
    val batteryLevel: Double? = null,
    val charging: Boolean? = null,
    val batteryCelsius: Double? = null,
)

/** Takes a sample of the condition every few seconds. */
class Sampler(private val probe: (Double) -> Condition, private val every: Double = 2.0) {
    private val begun = System.nanoTime()
    private val lock = ReentrantLock()
    private val ended = lock.newCondition()
    private val samples = mutableListOf<Condition>()
    private var stopped = false
    private val thread = Thread(::sample, "conditions").also { it.isDaemon = true }

    /** Seconds since the start of the run. */
    val elapsed: Double get() = (System.nanoTime() - begun) / 1e9

    fun start() {
        take()
        thread.start()
    }

    /** The samples until now. */
    fun taken(): List<Condition> = lock.withLock { samples.toList() }

    fun stop() {
        lock.withLock {
            stopped = true
            ended.signalAll()
        }
        thread.join()
        take()
    }

    private fun sample() {
        while (waited()) take()
    }

    /** Wait for the next sample's time; false if the run is over. */
    private fun waited(): Boolean = lock.withLock {
        var left = (every * 1e9).toLong()
        while (!stopped && left > 0) left = ended.awaitNanos(left)
        !stopped
    }

    private fun take() {
        val at = elapsed
        // A device that fails to report its condition must not end the run.
        val sample = try {
            probe(at)
        } catch (_: Exception) {
            Condition(at)
        }
        lock.withLock { samples.add(sample) }
    }
}
