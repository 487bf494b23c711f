// An export's directory as a benchmark sees it: its .pte, held against its manifest, and what it should say.
//
//     smollm2-135m/ model.pte       the program
//                   manifest.json   name, plan, hash and sizes of it, its prompt and the tokens after it
//                   packed/         weights that it brings packed, each for a class of CPUs

package dev.sharpmobile.bench

import java.io.File
import java.io.IOException

const val FORMAT_VERSION = 1L

/** Weights that lie in an export as XNNPACK packs them, and what they are good for. */
data class PackedWeights(
    val file: String,
    val cpuClass: String,
    val runtime: String,
    val pteSha256: String,
    val sha256: String,
    val bytes: Long,
)

/** The export folders below a directory, and those that are broken with the reason. */
class Found(val folders: List<ExportFolder>, val broken: List<Pair<File, String>>)

/**
 * An opened export.
 *
 * executorch: the version that made it. length: positions in its KV cache. prompt: token ids, and expectedTokens what
 * greedy decoding gave after them when it was exported.
 */
class ExportFolder private constructor(
    val directory: File,
    val identity: ExportIdentity,
    val executorch: String,
    val length: Int,
    val prompt: List<Long>,
    val expectedTokens: List<Long>,
    val packed: List<PackedWeights>,
) {
    val pte: File get() = pteOf(directory)

    /** Hold the .pte against the SHA-256 in the manifest. */
    fun checkHash() {
        val found = sha256Of(pte)
        if (found != identity.sha256) {
            throw Failure(
                "$pte: is not the file of its manifest: its SHA-256 is ${found.take(16)}…, not " +
                    "${identity.sha256.take(16)}…; copy it again, or export the model again",
            )
        }
    }

    /** Refuse an export of another runtime than this one, such as "executorch 1.5.1". */
    fun checkRuntime(runtime: String) {
        if (runtime != "executorch $executorch") {
            throw Failure(
                "$directory: is of executorch $executorch, and this program has $runtime, which may not read it; " +
                    "export the model again with that version, or build this program with the export's",
            )
        }
    }

    companion object {
        /** Open an export; reads the manifest and looks at the .pte's size, not at its bytes. */
        fun open(directory: File): ExportFolder {
            val path = File(directory, "manifest.json")
            if (!path.isFile) throw Failure("$directory: is not an export's directory: it has no manifest.json")
            val folder = try {
                read(directory, Fields(Json.parse(path.readText()), path.toString()))
            } catch (error: IllegalArgumentException) {
                throw Failure("$path: is not a whole manifest (${error.message}); copy the export again")
            } catch (error: IOException) {
                throw Failure("$path: cannot be read: ${told(error)}")
            }
            checkSize(folder)
            return folder
        }

        /** All export folders below a directory, by their names. */
        fun find(directory: File): Found {
            val folders = mutableListOf<ExportFolder>()
            val broken = mutableListOf<Pair<File, String>>()
            for (child in directory.listFiles().orEmpty().filter { it.isDirectory }.sortedBy { it.name }) {
                try {
                    folders.add(open(child))
                } catch (failure: Failure) {
                    broken.add(child to told(failure))
                }
            }
            return Found(folders, broken)
        }

        /** What can be said of a directory that cannot be opened. */
        fun unreadable(directory: File): ExportIdentity =
            ExportIdentity(directory.name, "unknown", "", fileBytes(pteOf(directory)) ?: 0, 0, 0)

        private fun pteOf(directory: File) = File(directory, "model.pte")

        private fun read(directory: File, fields: Fields): ExportFolder {
            val format = fields.whole("format_version")
            if (format != FORMAT_VERSION) {
                throw Failure(
                    "$directory: its manifest is of format $format, this program reads $FORMAT_VERSION; " +
                        "export the model again",
                )
            }
            val expected = fields.fields("expected")
            val prompt = expected.wholes("prompt_tokens")
            if (prompt.isEmpty()) throw Failure("$directory: its manifest has no prompt; export the model again")
            return ExportFolder(
                directory = directory,
                identity = identity(fields, fields.fields("sizes")),
                executorch = fields.fieldsOrNull("versions")?.textOrNull("executorch") ?: "unknown",
                length = fields.fields("metadata").whole("get_max_context_len").toInt(),
                prompt = prompt,
                expectedTokens = expected.wholes("tokens"),
                packed = fields.list("packed").map { packedWeights(Fields(it, "$directory: packed")) },
            )
        }

        private fun identity(fields: Fields, sizes: Fields) = ExportIdentity(
            name = fields.text("name"),
            plan = fields.text("plan"),
            sha256 = fields.text("sha256"),
            fileBytes = sizes.whole("file"),
            tensorBytes = sizes.whole("tensors"),
            unsharedBytes = sizes.whole("file") + sizes.whole("shared") - sizes.whole("recovery"),
            divergence = fields.numberOrNull("divergence"),
        )

        private fun packedWeights(fields: Fields) = PackedWeights(
            file = fields.text("file"),
            cpuClass = fields.text("cpu_class"),
            runtime = fields.text("runtime"),
            pteSha256 = fields.text("pte_sha256"),
            sha256 = fields.text("sha256"),
            bytes = fields.whole("bytes"),
        )

        private fun checkSize(folder: ExportFolder) {
            val bytes = fileBytes(folder.pte) ?: throw Failure("${folder.pte}: is missing; copy the export again")
            if (bytes != folder.identity.fileBytes) {
                throw Failure(
                    "${folder.pte}: has $bytes bytes and should have ${folder.identity.fileBytes}; copy the export again",
                )
            }
        }
    }
}
