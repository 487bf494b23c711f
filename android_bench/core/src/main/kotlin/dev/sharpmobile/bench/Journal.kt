// A run that the system ends leaves a results file that says so.
//
//     begin ───────► the file says: the system ended the app during <stage>      while a launch runs
//     interrupted ─► the file says: the app went to the background during it     if it does while a launch runs
//     pause ───────► the file says: the app was ended before it was measured     while other exports' launches run
//     finish ──────► the file has the results
//
// So the next start need not guess: the file is there, with what had been measured until then.

package dev.sharpmobile.bench

import java.io.File

/** What was under way when the app left the screen: the system slows such an app down, so it is not counted. */
class Interruption(private val stage: String, private val export: String) {
    val line: String
        get() = "the app went to the background during $stage of $export, which is not counted; " +
            "keep the app in front and run it again"
}

class Journal(private val path: File) {
    private var underWay: Pair<Results, String>? = null

    @Synchronized
    fun begin(measured: Results, stage: String) {
        underWay = measured to stage
        measured.failed(
            "the system ended the app during $stage of ${measured.export.name}, most likely for lack of memory; " +
                "free some or share more layers",
        ).write(path)
    }

    @Synchronized
    fun pause(measured: Results) {
        underWay = null
        measured.failed("the app was ended before ${measured.export.name} was measured to its end; run it again")
            .write(path)
    }

    @Synchronized
    fun finish(results: Results) {
        underWay = null
        results.write(path)
    }

    /** The app went to the background, and the system may end it at any time: the file says so at once. */
    @Synchronized
    fun interrupted() {
        val (measured, stage) = underWay ?: return
        try {
            measured.failed(Interruption(stage, measured.export.name).line).write(path)
        } catch (_: Failure) {
            // The run writes the same when the launch ends, and reports what is wrong with the file.
        }
    }
}

/** What is free on the device: bytes on disk, and memory that the app may take, if the system reports it. */
class Room(val freeBytes: Long, val availableMemory: Long? = null)

object Requirements {
    /** Packed weights take about the .pte's bytes: on disk if the engine stores them there, else in memory. */
    fun check(room: Room, packedOnDisk: Boolean, export: ExportFolder) {
        val needed = export.identity.fileBytes
        if (packedOnDisk && room.freeBytes < needed) {
            throw Failure(
                "${export.name}: needs about $needed bytes of disk for packed weights, ${room.freeBytes} are free; " +
                    "delete something",
            )
        }
        if (!packedOnDisk && room.availableMemory != null && room.availableMemory < needed) {
            throw Failure(
                "${export.name}: needs about $needed bytes of memory for packed weights, the system gives " +
                    "${room.availableMemory}; close other apps or share more layers",
            )
        }
    }
}
