// The one screen: choose exports, run, watch, see the table, share the results. And the start without hands:
//
//     am start -S -W -n dev.sharpmobile.bench/.BenchActivity --es export_dir DIRECTORY[,DIRECTORY…]
//         [--es out DIRECTORY] [--ei repetitions N] [--ei threads N] [--ei prefill N] [--ei decode N]

package dev.sharpmobile.bench

import android.app.Activity
import android.content.Intent
import android.graphics.Typeface
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.CheckBox
import android.widget.LinearLayout
import android.widget.ScrollView
import android.widget.TextView
import androidx.core.content.FileProvider
import dev.sharpmobile.bench.app.BenchRun
import dev.sharpmobile.bench.app.exportsOf
import dev.sharpmobile.bench.app.resultsFile
import dev.sharpmobile.bench.app.resultsOf
import dev.sharpmobile.bench.app.table
import java.io.File
import java.util.ArrayList

class BenchActivity : Activity() {
    private val boxes = mutableMapOf<CheckBox, File>()
    private lateinit var list: LinearLayout
    private lateinit var text: TextView
    private lateinit var start: Button
    private lateinit var share: Button
    private var run: BenchRun? = null

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        // A phone that goes to sleep in the middle measures its sleep.
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        setContentView(screen())
        if (saved == null) accept(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        accept(intent)
    }

    override fun onResume() {
        super.onResume()
        if (run == null) showExports()
    }

    /** A start without hands begins at once. */
    private fun accept(intent: Intent) {
        val given = intent.getStringExtra("export_dir") ?: return
        val out = intent.getStringExtra("out")?.let(::File) ?: resultsOf(this)
        begin(given.split(',').filter { it.isNotBlank() }.map { File(it.trim()) }, out, intent)
    }

    private fun begin(directories: List<File>, out: File, options: Intent) {
        if (run != null) return
        val plan = try {
            plan(options)
        } catch (failure: Failure) {
            Status(File(out, "status.json")).failed(told(failure))
            text.text = told(failure)
            return
        }
        start.text = getString(android.R.string.cancel)
        share.visibility = View.GONE
        text.text = ""
        run = BenchRun(
            applicationContext, directories, out, plan,
            say = { line -> runOnUiThread { text.text = line } },
            done = { results, error -> runOnUiThread { end(results, error, directories, out) } },
        ).also { it.start() }
    }

    private fun plan(options: Intent): Plan {
        val plan = Plan()
        return Plan(
            threads = options.getIntExtra("threads", plan.threads),
            repetitions = options.getIntExtra("repetitions", plan.repetitions),
            prefill = options.getIntExtra("prefill", plan.prefill),
            decode = options.getIntExtra("decode", plan.decode),
        )
    }

    private fun end(results: List<Results>, error: String?, directories: List<File>, out: File) {
        run = null
        start.text = RUN
        text.text = error ?: table(results)
        val shareable = results.isNotEmpty() && out == resultsOf(this)
        share.visibility = if (shareable) View.VISIBLE else View.GONE
        share.setOnClickListener { send(directories.map { resultsFile(out, it) }) }
        showExports()
    }

    /** By the system's sheet: mail, a drive, another app. */
    private fun send(files: List<File>) {
        val uris = files.filter { it.isFile }.map { FileProvider.getUriForFile(this, "$packageName.files", it) }
        val intent = Intent(Intent.ACTION_SEND_MULTIPLE).setType("application/json")
            .putParcelableArrayListExtra(Intent.EXTRA_STREAM, ArrayList(uris))
            .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        startActivity(Intent.createChooser(intent, null))
    }

    private fun showExports() {
        val chosen = boxes.filterKeys { it.isChecked }.values.toSet()
        list.removeAllViews()
        boxes.clear()
        val found = ExportFolder.find(exportsOf(this))
        for (export in found.exports) {
            val box = CheckBox(this)
            box.text = "${export.name}: ${export.identity.fileBytes / 1_000_000} MB, plan ${export.identity.plan}"
            box.isChecked = chosen.isEmpty() || export.directory in chosen
            boxes[box] = export.directory
            list.addView(box)
        }
        for ((name, reason) in found.broken) list.addView(line("$name: $reason"))
        if (boxes.isEmpty()) list.addView(line("No exports yet: adb push an export's directory to ${exportsOf(this)}"))
    }

    private fun screen(): View {
        list = column()
        text = line("")
        text.typeface = Typeface.MONOSPACE
        text.setTextIsSelectable(true)
        start = Button(this)
        start.text = RUN
        start.setOnClickListener { startOrStop() }
        share = Button(this)
        share.text = SHARE
        share.visibility = View.GONE
        val all = column()
        all.fitsSystemWindows = true
        for (view in listOf(list, start, share, text)) all.addView(view)
        return ScrollView(this).also { it.addView(all) }
    }

    private fun startOrStop() {
        val chosen = boxes.filterKeys { it.isChecked }.values.toList()
        run?.stop() ?: begin(chosen, resultsOf(this), Intent())
    }

    private fun column() = LinearLayout(this).also { it.orientation = LinearLayout.VERTICAL }

    private fun line(words: String) = TextView(this).also { it.text = words }

    private companion object {
        const val RUN = "Run"
        const val SHARE = "Share results"
    }
}
