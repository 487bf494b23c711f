// A JSON object read field by field: the kind of each is checked, and nothing may be left over.

package dev.sharpmobile.bench

/** The fields of an object; `path` is what errors call it. */
class Fields(value: Any?, private val path: String) {
    @Suppress("UNCHECKED_CAST") // JSON's keys are strings
    private val map = value as? Map<String, Any?> ?: throw Failure("$path: is no object")
    private val read = mutableSetOf<String>()

    // Absent and null are the same to the functions that end in OrNull, and to lists.
    fun text(key: String): String = take(key) as? String ?: wrong(key, "text")
    fun textOrNull(key: String): String? = if (absent(key)) null else text(key)
    fun whole(key: String): Long = take(key) as? Long ?: wrong(key, "a whole number")
    fun wholeOrNull(key: String): Long? = if (absent(key)) null else whole(key)
    fun number(key: String): Double = (take(key) as? Number ?: wrong(key, "a number")).toDouble()
    fun numberOrNull(key: String): Double? = if (absent(key)) null else number(key)
    fun flag(key: String): Boolean = take(key) as? Boolean ?: wrong(key, "true or false")
    fun flagOrNull(key: String): Boolean? = if (absent(key)) null else flag(key)
    fun list(key: String): List<Any?> = if (absent(key)) listOf() else take(key) as? List<*> ?: wrong(key, "a list")
    fun wholes(key: String): List<Long> = list(key).map { it as? Long ?: wrong(key, "a list of whole numbers") }
    fun numbers(key: String): List<Double> =
        list(key).map { (it as? Number ?: wrong(key, "a list of numbers")).toDouble() }
    fun texts(key: String): List<String> = list(key).map { it as? String ?: wrong(key, "a list of texts") }
    fun fields(key: String): Fields = Fields(take(key), "$path: $key")
    fun fieldsOrNull(key: String): Fields? = if (absent(key)) null else fields(key)

    /** Refuse what was not read. */
    fun end() {
        val left = map.keys - read
        if (left.isNotEmpty()) throw Failure("$path: ${left.first()} is unknown here")
    }

    /** Each object of a list. */
    fun <T> each(key: String, read: (Fields) -> T): List<T> = list(key).map { read(Fields(it, "$path: $key")) }

    private fun absent(key: String): Boolean {
        read.add(key)
        return map[key] == null
    }

    private fun take(key: String): Any? {
        read.add(key)
        if (key !in map) throw Failure("$path: $key is missing")
        return map[key]
    }

    private fun wrong(key: String, kind: String): Nothing = throw Failure("$path: $key is not $kind")
}
