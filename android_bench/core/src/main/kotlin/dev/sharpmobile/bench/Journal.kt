// A run that the system ends in the middle leaves a results file that says so.
//
//     begin ──► the file says: the system ended the app during <stage>      while a launch runs
//     pause ──► the file says: the app was ended before it was measured     while other exports' launches run
//     finish ─► the file has the results
//
// So on the next start nothing has to be guessed: the file is there, with what had been measured until then.

package dev.sharpmobile.bench

import java.io.File

class Journal(private val path: File) {
    fun begin(measured: Results, stage: String) = measured.failed(
        "the system ended the app during $stage of ${measured.export.name}, most likely for lack of memory; " +
            "free some or share more layers",
    ).write(path)

    fun pause(measured: Results) =
        measured.failed("the app was ended before ${measured.export.name} was measured to its end; run it again")
            .write(path)

    fun finish(results: Results) = results.write(path)
}

/** What is free on the device: bytes on disk, and of memory that the app may take, where the system tells. */
class Room(val freeBytes: Long, val availableMemory: Long? = null)

object Requirements {
    /** Packed weights take about the .pte's bytes: on disk where the engine keeps them there, else in memory. */
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
