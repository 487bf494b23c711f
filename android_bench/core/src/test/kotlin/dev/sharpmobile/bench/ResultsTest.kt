package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotNull

class ResultsTest {
    private val whole = example().copy(
        device = DEVICE.copy(memoryBytes = 5, thermal = "none", battery = "50%"),
        prefill = TokenSamples(listOf(0.5), 128),
        load = Load(cold = Samples(listOf(1.0))),
    )

    @Test
    fun whatIsWrittenIsRead() {
        val empty = Results("now", device = DEVICE, export = whole.export, settings = whole.settings)
        for (results in listOf(whole, example(), empty)) {
            assertEquals(results, Results.parse(results.toJson()))
        }
    }

    @Test
    fun aFileIsWrittenWholeOrNotAtAll() {
        val directory = temporary()
        whole.write(File(directory, "below/results.json"))
        assertEquals(listOf("results.json"), File(directory, "below").list()?.toList())
        assertEquals(whole, Results.parse(File(directory, "below/results.json").readText()))
        File(directory, "file").writeText("")
        assertFailsWith<Failure> { whole.write(File(directory, "file/results.json")) }
    }

    @Test
    fun everyLanguageWritesTheSame() {
        val files = FIXTURES.listFiles { file -> file.extension == "json" }.orEmpty()
        assertContains(files.map { it.name }, "kotlin.json")
        for (file in files) {
            val found = Results.parse(file.readText())
            assertEquals(example(), found.copy(settings = found.settings.copy(harness = "kotlin")), file.name)
        }
        assertEquals(example().toJson(), File(FIXTURES, "kotlin.json").readText())
    }

    @Test
    fun whatIsNoResultsFileIsRefused() {
        val json = example().toJson()
        val wrong = mapOf(
            "" to "is not a whole results file",
            json.take(200) to "is not a whole results file",
            "[]" to "is no object",
            "{}" to "has no schema version",
            json.replace("schema_version\": 2", "schema_version\": 3") to "is of schema version 3, this program reads",
            json.replace("\"plan\"", "\"plot\"") to "plan is missing",
            json.replace("\"battery\": null", "\"color\": null") to "color is unknown here",
            json.replace("\"charge_uah\"", "\"charge\"") to "charge is unknown here",
            json.replace("\"cores\": 2", "\"cores\": \"two\"") to "cores is not a whole number",
            json.replace("\"status\": \"failed\"", "\"status\": \"ok\"") to "has an error",
            json.replace(" 2.0", " -2.0") to "seconds that nobody measured",
        )
        for ((text, problem) in wrong) {
            assertContains(assertFailsWith<Failure>(problem) { Results.parse(text) }.message!!, problem)
        }
    }

    @Test
    fun aLogitThatIsNoNumberIsTold() {
        val failure = assertFailsWith<Failure> { example().copy(likeliest = listOf(Likely(1, Double.NaN))).toJson() }
        assertContains(assertNotNull(failure.message), "tiny: has results that no JSON can hold")
    }
}
