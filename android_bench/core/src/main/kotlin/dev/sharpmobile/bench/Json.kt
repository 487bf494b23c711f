// JSON without a library, since the JVM has none: strict, as RFC 8259 has it.
//
//     object -> Map<String, Any?>   array -> List<Any?>   string -> String   whole number -> Long
//     other number -> Double        true, false -> Boolean                   null -> null

package dev.sharpmobile.bench

object Json {
    /** The value of a whole text; IllegalArgumentException at what is not JSON. */
    fun parse(text: String): Any? = Reader(text).whole()

    /** The text of a value of the kinds above; Int and Float are written as well. */
    fun write(value: Any?): String = StringBuilder().also { append(it, value, 0) }.append("\n").toString()

    private fun append(out: StringBuilder, value: Any?, depth: Int) {
        when (value) {
            null, is Boolean, is Int, is Long -> out.append(value)
            is Float, is Double -> out.append(finite(value as Number))
            is String -> quote(out, value)
            is Map<*, *> -> appendAll(out, "{", "}", value.entries, depth) { (key, item) ->
                quote(out, key as String)
                out.append(": ")
                append(out, item, depth + 1)
            }
            is List<*> -> appendAll(out, "[", "]", value, depth) { append(out, it, depth + 1) }
            else -> throw IllegalArgumentException("JSON has no ${value::class.simpleName}")
        }
    }

    private fun <T> appendAll(
        out: StringBuilder, open: String, close: String, items: Collection<T>, depth: Int, appendOne: (T) -> Unit,
    ) {
        out.append(open)
        for ((index, item) in items.withIndex()) {
            out.append(if (index > 0) ",\n" else "\n").append(" ".repeat(depth + 1))
            appendOne(item)
        }
        if (items.isNotEmpty()) out.append("\n").append(" ".repeat(depth))
        out.append(close)
    }

    private fun finite(number: Number): String {
        require(number.toDouble().isFinite()) { "JSON has no $number" }
        return number.toString()
    }

    private fun quote(out: StringBuilder, text: String) {
        out.append('"')
        for (letter in text) {
            when {
                letter == '"' || letter == '\\' -> out.append('\\').append(letter)
                letter == '\n' -> out.append("\\n")
                letter < ' ' -> out.append("\\u%04x".format(letter.code))
                else -> out.append(letter)
            }
        }
        out.append('"')
    }
}

private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?")
private val ESCAPES = mapOf(
    '"' to '"', '\\' to '\\', '/' to '/', 'b' to '\b', 'f' to '\u000c', 'n' to '\n', 'r' to '\r', 't' to '\t',
)
private const val DEEPEST = 100

private class Reader(private val text: String) {
    private var at = 0
    private var depth = 0

    fun whole(): Any? {
        val value = value()
        space()
        if (at < text.length) fail("something follows the value")
        return value
    }

    private fun value(): Any? {
        space()
        return when (peek()) {
            '{' -> inside { map() }
            '[' -> inside { list() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun <T> inside(read: () -> T): T {
        if (++depth > DEEPEST) fail("more than $DEEPEST levels")
        at++
        return read().also { depth-- }
    }

    private fun map(): Map<String, Any?> {
        val map = LinkedHashMap<String, Any?>()
        if (taken('}')) return map
        do {
            space()
            val key = string()
            if (key in map) fail("\"$key\" comes twice")
            expect(':')
            map[key] = value()
        } while (taken(','))
        expect('}')
        return map
    }

    private fun list(): List<Any?> {
        val list = ArrayList<Any?>()
        if (taken(']')) return list
        do list.add(value()) while (taken(','))
        expect(']')
        return list
    }

    private fun string(): String {
        if (peek() != '"') fail("a string is missing")
        at++
        val out = StringBuilder()
        while (true) {
            val letter = peek()
            at++
            when {
                letter == '"' -> return out.toString()
                letter == '\\' -> out.append(escaped())
                letter < ' ' -> fail("a string is not closed")
                else -> out.append(letter)
            }
        }
    }

    private fun escaped(): Char {
        val letter = peek()
        at++
        if (letter != 'u') return ESCAPES[letter] ?: fail("\\$letter is no escape")
        if (at + 4 > text.length) fail("it is cut short")
        val code = text.substring(at, at + 4)
        at += 4
        if (!code.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail("\\u$code is no escape")
        return code.toInt(16).toChar()
    }

    private fun number(): Any {
        val match = NUMBER.matchAt(text, at) ?: fail("a value is missing")
        at = match.range.last + 1
        val whole = match.groupValues[2].isEmpty() && match.groupValues[3].isEmpty()
        val number: Number? = if (whole) match.value.toLongOrNull() else match.value.toDouble().takeIf { it.isFinite() }
        return number ?: fail("${match.value} is too large")
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail("a value is missing")
        at += word.length
        return value
    }

    private fun taken(letter: Char): Boolean {
        space()
        return (at < text.length && text[at] == letter).also { if (it) at++ }
    }

    private fun expect(letter: Char) {
        if (!taken(letter)) fail("'$letter' is missing")
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("it is cut short")

    private fun space() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun fail(problem: String): Nothing = throw IllegalArgumentException("$problem at letter $at")
}
