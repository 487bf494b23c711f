package dev.sharpmobile.bench

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class JsonTest {
    @Test
    fun whatIsWrittenIsRead() {
        val value = mapOf(
            "text" to "a \"quoted\" \\ line\n\u0001 é 日本 😀", "whole" to -12L, "number" to 0.1, "tiny" to 1e-300,
            "yes" to true, "nothing" to null, "empty" to listOf<Any?>(), "none" to mapOf<String, Any?>(),
            "deep" to listOf(listOf(1L, 2.5), mapOf("a" to null)),
        )
        assertEquals(value, Json.parse(Json.write(value)))
    }

    @Test
    fun everythingThatJsonHasIsRead() {
        assertEquals(
            mapOf("a" to listOf(1L, -0.5, 200.0, false), "b" to "\u00e9/\t"),
            Json.parse(" { \"a\" : [ 1 , -0.5,2e2 , false ] ,\"b\":\"\\u00e9\\/\\t\" } "),
        )
    }

    @Test
    fun nothingElseIsRead() {
        val wrong = listOf(
            "", "{", "[1,]", "{\"a\":1,}", "{a: 1}", "01", "1.", ".5", "+1", "NaN", "nul", "\"a", "\"\n\"", "\"\\x\"",
            "[1] 2", "'a'", "{\"a\":1 \"b\":2}", "\"\\u12\"", "1e999", "99999999999999999999", "[".repeat(200),
            "{\"a\":1,\"a\":2}",
        )
        for (text in wrong) assertFailsWith<IllegalArgumentException>(text) { Json.parse(text) }
    }

    @Test
    fun whatIsNoNumberIsNotWritten() {
        for (number in listOf(Double.NaN, Double.POSITIVE_INFINITY, Float.NaN)) {
            assertFailsWith<IllegalArgumentException> { Json.write(listOf(number)) }
        }
    }
}
