// Where the app keeps its files; adb and file managers reach them.
//
//     files/exports/<name>/                          exports, one directory each
//     files/results/results-android-<name>.json      of each export
//     files/results/status.json                      of the run

package dev.sharpmobile.bench.app

import android.content.Context
import dev.sharpmobile.bench.Failure
import java.io.File

fun exportsOf(context: Context) = File(filesOf(context), "exports").also { it.mkdirs() }

fun resultsOf(context: Context) = File(filesOf(context), "results").also { it.mkdirs() }

fun statusFile(out: File) = File(out, "status.json")

/** Where an export's results go. */
fun resultsFile(out: File, export: File) = File(out, "results-android-${export.name}.json")

private fun filesOf(context: Context): File =
    context.getExternalFilesDir(null) ?: throw Failure("the phone's shared storage is not there; unlock the phone")
