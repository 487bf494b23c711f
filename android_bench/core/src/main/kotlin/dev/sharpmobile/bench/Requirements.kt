// Refuse an export that the device has no room for, before it is run.

package dev.sharpmobile.bench

object Requirements {
    /**
     * freeBytes: on the disk that packed weights go to; null where none are kept. availableBytes: of memory; null where
     * nobody knows. Packed weights take about what the .pte takes.
     */
    fun check(freeBytes: Long?, availableBytes: Long?, export: ExportFolder) {
        val needed = export.identity.fileBytes
        if (freeBytes != null && freeBytes < needed) {
            throw Failure(
                "${export.identity.name}: its packed weights need about $needed bytes of storage and $freeBytes are " +
                    "free; make room",
            )
        }
        if (availableBytes != null && availableBytes < needed) {
            throw Failure(
                "${export.identity.name}: needs about $needed bytes of memory and $availableBytes are free; close " +
                    "other apps, or share more layers",
            )
        }
    }
}
