// The chat's screen: choose an export, write a prompt, see the answer grow and how fast. One question at a time.
//
// The model lives in BenchProcess. It is unloaded when the screen is left, so that the benchmark has the memory.

package dev.sharpmobile.bench

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.RadioButton
import android.widget.RadioGroup
import android.widget.ScrollView
import android.widget.TextView
import dev.sharpmobile.bench.app.BenchProcess
import dev.sharpmobile.bench.app.Talk
import dev.sharpmobile.bench.app.exportsOf
import dev.sharpmobile.bench.app.speed

class ChatActivity : Activity() {
    private val exports = mutableMapOf<Int, ExportFolder>()
    private var busy = false
    private lateinit var choice: RadioGroup
    private lateinit var prompt: EditText
    private lateinit var ask: Button
    private lateinit var speed: TextView
    private lateinit var answer: TextView

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(screen())
    }

    override fun onStart() {
        super.onStart()
        BenchProcess.conversation.watch { talk -> runOnUiThread { show(talk) } }
    }

    override fun onStop() {
        super.onStop()
        BenchProcess.conversation.watch(null)
        if (!isChangingConfigurations) BenchProcess.conversation.close()
    }

    private fun show(talk: Talk) {
        busy = talk.busy
        ask.text = if (busy) getString(android.R.string.cancel) else "Ask"
        speed.text = talk.error ?: speed(talk)
        answer.text = talk.answer.text
    }

    private fun askOrStop() {
        if (busy) return BenchProcess.conversation.stop()
        try {
            val export = exports[choice.checkedRadioButtonId]
            if (export == null) throw Failure("no export is chosen; push one to ${exportsOf(this)} first")
            BenchProcess.conversation.ask(export, prompt.text.toString())
        } catch (failure: Failure) {
            speed.text = told(failure)
        }
    }

    private fun found(): List<ExportFolder> = try {
        ExportFolder.find(exportsOf(this)).exports
    } catch (_: Failure) {
        listOf() // a question says why
    }

    private fun screen(): View {
        choice = RadioGroup(this)
        for ((index, export) in found().withIndex()) {
            val button = RadioButton(this)
            button.id = FIRST_EXPORT + index
            button.text = export.name
            button.isChecked = index == 0
            exports[button.id] = export
            choice.addView(button)
        }
        // With an id, Android keeps the text and the choice when it recreates the screen.
        choice.id = CHOICE
        prompt = EditText(this).also { it.id = PROMPT }
        prompt.hint = "Prompt"
        ask = Button(this)
        ask.setOnClickListener { askOrStop() }
        speed = TextView(this)
        answer = TextView(this).also { it.setTextIsSelectable(true) }
        val all = LinearLayout(this).also { it.orientation = LinearLayout.VERTICAL }
        all.fitsSystemWindows = true
        for (view in listOf(choice, prompt, ask, speed, answer)) all.addView(view)
        return ScrollView(this).also { it.addView(all) }
    }

    private companion object {
        const val PROMPT = 1
        const val CHOICE = 2
        const val FIRST_EXPORT = 100
    }
}
