// An export's directory as a benchmark sees it: its .pte, its manifest, and the tokens it should generate.
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

/** "1.5" of "1.5.1": patch releases read the same programs and pack weights in the same way. */
val String.majorMinor: String get() = split('.').take(2).joinToString(".")

/** Exports below a directory, by name; and those that are broken, with the reason. */
class FoundExports(val exports: List<ExportFolder>, val broken: List<Pair<String, String>>)

/**
 * An opened export.
 *
 * executorch: the version that made it. length: positions in its KV cache. longestStep: tokens that one forward takes.
 * prompt: token ids, and expectedTokens what greedy decoding gave after them when it was exported. stop: tokens that
 * end a text.
 */
class ExportFolder private constructor(
    val directory: File,
    val identity: ExportIdentity,
    val executorch: String?,
    val length: Int,
    val longestStep: Int,
    val prompt: List<Long>,
    val expectedTokens: List<Long>,
    val stop: List<Long>,
    val packed: List<PackedWeights>,
) {
    val name: String get() = directory.name
    val pte: File get() = pteOf(directory)

    companion object {
        /** Open an export; its .pte must have the bytes that the manifest says. The hash is checked by `checkHash`. */
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
            check(folder)
            return folder
        }

        /** All exports below a directory; none where there is no directory. */
        fun find(directory: File): FoundExports {
            val exports = mutableListOf<ExportFolder>()
            val broken = mutableListOf<Pair<String, String>>()
            for (child in directory.listFiles().orEmpty().filter { it.isDirectory }.sortedBy { it.name }) {
                try {
                    exports.add(open(child))
                } catch (failure: Failure) {
                    broken.add(child.name to told(failure))
                }
            }
            return FoundExports(exports, broken)
        }

        /** The identity of a directory that cannot be opened as an export. */
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
            val metadata = fields.fields("metadata")
            val length = metadata.whole("get_max_context_len").toInt()
            return ExportFolder(
                directory = directory,
                identity = identity(fields, fields.fields("sizes")),
                executorch = fields.fieldsOrNull("versions")?.textOrNull("executorch"),
                length = length,
                longestStep = minOf(length - 1, metadata.wholeOrNull("get_max_seq_len")?.toInt() ?: length),
                prompt = expected.wholes("prompt_tokens"),
                expectedTokens = expected.wholes("tokens"),
                stop = metadata.wholes("get_eos_ids"),
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

        private fun check(folder: ExportFolder) {
            val bytes = fileBytes(folder.pte) ?: throw Failure("${folder.pte}: is missing; copy the export again")
            val needed = folder.identity.fileBytes
            if (bytes != needed) {
                throw Failure("${folder.pte}: has $bytes bytes, its manifest says $needed; copy it again")
            }
            val prompt = folder.prompt.size
            if (prompt == 0 || prompt >= folder.length || folder.longestStep < 1) {
                throw Failure("${folder.directory}: its prompt of $prompt tokens does not fit; export it again")
            }
        }
    }

    /** Compare the .pte with the SHA-256 in its manifest. */
    fun checkHash() {
        val found = sha256Of(pte)
        if (found != identity.sha256) {
            throw Failure(
                "$pte: is not the file of its manifest: its SHA-256 is ${found.take(16)}…, not " +
                    "${identity.sha256.take(16)}…; copy the export again",
            )
        }
    }

    /** A program needs the runtime that it was made for, up to the patch; `runtime`: such as "executorch 1.5.1". */
    fun checkRuntime(runtime: String) {
        val needed = executorch?.let { "executorch $it" } ?: "an unknown runtime"
        if (needed.majorMinor != runtime.majorMinor) {
            throw Failure("$name: was exported for $needed, this app has $runtime; export it again with $runtime")
        }
    }
}
