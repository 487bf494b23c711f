// The benchmark's screen: choose exports, run, watch, see the table, share the results. And the start without hands:
//
//     am start -S -W -n dev.sharpmobile.bench/.BenchActivity --es export_dir DIRECTORY[,DIRECTORY…]
//         [--es out DIRECTORY] [--es threads N] [--es repetitions N] [--es prefill N] [--es decode N]
//         [--es depths N,N…|none] [--es threads_sweep N,N…,performance] [--es sustain SECONDS] [--es cool_down SECONDS]
//
// The run lives in BenchProcess: a screen that Android recreates (turned, folded, resized) watches the same run again.
// A screen that is left is another matter: Android slows apps in the background down, so the launch does not count.

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
import dev.sharpmobile.bench.app.BenchProcess
import dev.sharpmobile.bench.app.exportsOf
import dev.sharpmobile.bench.app.resultsOf
import dev.sharpmobile.bench.app.statusFile
import dev.sharpmobile.bench.app.table
import java.io.File
import java.util.ArrayList

class BenchActivity : Activity() {
    private val boxes = mutableMapOf<CheckBox, File>()
    private val watcher = { state: RunState -> runOnUiThread { show(state) } }
    private var running = false
    private var chosenBefore = listOf<String>() // on the screen that this one replaces
    private lateinit var list: LinearLayout
    private lateinit var text: TextView
    private lateinit var start: Button
    private lateinit var chat: Button
    private lateinit var share: Button

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        // A phone that goes to sleep in the middle measures its sleep.
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        setContentView(screen())
        chosenBefore = saved?.getStringArrayList(CHOSEN).orEmpty()
        if (saved == null) accept(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        accept(intent)
    }

    override fun onStart() {
        super.onStart()
        BenchProcess.runs.holder.watch(watcher)
    }

    override fun onResume() {
        super.onResume()
        if (!running) showExports() // some may have been pushed since
    }

    override fun onStop() {
        super.onStop()
        BenchProcess.runs.holder.unwatch(watcher)
        if (!isChangingConfigurations) BenchProcess.runs.holder.background()
    }

    override fun onSaveInstanceState(out: Bundle) {
        super.onSaveInstanceState(out)
        out.putStringArrayList(CHOSEN, ArrayList(chosenNames()))
    }

    /** A start without hands begins at once. */
    private fun accept(intent: Intent) {
        val given = intent.getStringExtra(EXPORT_DIR) ?: return
        if (running) return // its status file is not this start's
        val out = intent.getStringExtra(OUT)?.let(::File) ?: resultsOf(this)
        try {
            val plan = Plan.parse(options(intent))
            BenchProcess.start(this, given.split(',').filter { it.isNotBlank() }.map { File(it.trim()) }, out, plan)
        } catch (failure: Failure) {
            Status(statusFile(out)).failed(told(failure))
            text.text = told(failure)
        }
    }

    /** All extras but the directories: a name that is no option must not pass unseen. */
    private fun options(intent: Intent): Map<String, String> {
        val extras = intent.extras ?: return mapOf()
        return extras.keySet().filter { it != EXPORT_DIR && it != OUT }.associateWith { name ->
            extras.getString(name) ?: throw Failure("$name is no text; give it as --es $name VALUE")
        }
    }

    private fun show(state: RunState) {
        running = state is RunState.Running
        start.text = if (running) getString(android.R.string.cancel) else RUN
        chat.isEnabled = !running
        share.visibility = View.GONE
        when (state) {
            RunState.Idle -> {}
            is RunState.Running -> text.text = state.line
            is RunState.Ended -> {
                text.text = state.error ?: table(state.results)
                // Only what lies in the app's own directory can be shared.
                val own = BenchProcess.files.all { it.parentFile == resultsOf(this) }
                if (state.results.isNotEmpty() && own) share.visibility = View.VISIBLE
                showExports()
            }
        }
    }

    /** By the system's sheet: mail, a drive, another app. */
    private fun send() {
        val files = BenchProcess.files.filter { it.isFile }
        val uris = files.map { FileProvider.getUriForFile(this, "$packageName.files", it) }
        val intent = Intent(Intent.ACTION_SEND_MULTIPLE).setType("application/json")
            .putParcelableArrayListExtra(Intent.EXTRA_STREAM, ArrayList(uris))
            .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        startActivity(Intent.createChooser(intent, null))
    }

    /** Those that were chosen stay so; if there were none, all are. */
    private fun showExports() {
        val chosen = chosenNames()
        list.removeAllViews()
        boxes.clear()
        val directory = try {
            exportsOf(this)
        } catch (failure: Failure) {
            return list.addView(line(told(failure)))
        }
        val found = ExportFolder.find(directory)
        for (export in found.exports) {
            val box = CheckBox(this)
            box.text = "${export.name}: ${export.identity.fileBytes / 1_000_000} MB, plan ${export.identity.plan}"
            box.isChecked = chosen.isEmpty() || export.directory.name in chosen
            boxes[box] = export.directory
            list.addView(box)
        }
        for ((name, reason) in found.broken) list.addView(line("$name: $reason"))
        if (boxes.isEmpty()) list.addView(line("No exports yet: adb push an export's directory to $directory"))
    }

    private fun chosen(): List<File> = boxes.filterKeys { it.isChecked }.values.toList()

    private fun chosenNames() = if (boxes.isEmpty()) chosenBefore else chosen().map { it.name }

    private fun screen(): View {
        list = column()
        text = line("")
        text.typeface = Typeface.MONOSPACE
        text.setTextIsSelectable(true)
        start = button(RUN) { startOrStop() }
        chat = button("Chat") { startActivity(Intent(this, ChatActivity::class.java)) }
        share = button("Share results") { send() }
        val all = column()
        all.fitsSystemWindows = true
        for (view in listOf(list, start, chat, share, text)) all.addView(view)
        return ScrollView(this).also { it.addView(all) }
    }

    private fun startOrStop() {
        if (running) return BenchProcess.runs.holder.stop()
        try {
            BenchProcess.start(this, chosen(), resultsOf(this), Plan())
        } catch (failure: Failure) {
            text.text = told(failure)
        }
    }

    private fun button(words: String, action: () -> Unit) = Button(this).also {
        it.text = words
        it.setOnClickListener { action() }
    }

    private fun column() = LinearLayout(this).also { it.orientation = LinearLayout.VERTICAL }

    private fun line(words: String) = TextView(this).also { it.text = words }

    private companion object {
        const val CHOSEN = "chosen"
        const val EXPORT_DIR = "export_dir"
        const val OUT = "out"
        const val RUN = "Run"
    }
}
