package dev.sharpmobile.bench

import java.io.File
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class PackedCacheTest {
    private val directory = File(temporary(), "packed")
    private val key = PackedCache.key("ab", "1.5.1", "a CPU")
    private val cache = PackedCache(directory, key)

    /** python -c 'from sharp_mobile.bench.packed_cache import cache_key; print(cache_key("ab", "1.5.1", "a CPU"))' */
    @Test
    fun theKeyIsPythons() =
        assertEquals("6d1c45c4e1096cbe2c5be4271ad912db14a10a84ed79ed5b6506b63e77b99d1f", key)

    @Test
    fun aSealedFileIsBelievedUntilItChanges() {
        assertFalse(cache.believed())
        cache.make { it.writeText("packed") }
        assertTrue(cache.believed())
        assertEquals(setOf("${key.take(16)}.packed", "${key.take(16)}.json"), directory.list()!!.toSet())
        cache.path.writeText("pecked")
        assertFalse(cache.believed())
        assertFalse(cache.path.exists())
    }

    @Test
    fun aLaunchThatFailsLeavesNothing() {
        assertFailsWith<IllegalStateException> {
            cache.make {
                it.writeText("half")
                error("killed")
            }
        }
        assertEquals(0, directory.list()!!.size)
        assertContains(assertFailsWith<Failure> { cache.make { } }.message!!, "wrote no packed weights")
    }

    @Test
    fun aLaunchThatChangesTheFileIsThrownAway() {
        val launches = mutableListOf<Int>()
        val found = cache.usedBy(
            { path -> path.appendIf(launches.isEmpty()).also { launches.add(1) } },
            { it.writeText("packed") },
        )
        assertEquals("packed", found)
        assertEquals(2, launches.size)
        val failure = assertFailsWith<Failure> { cache.usedBy({ it.appendIf(true) }, { it.writeText("packed") }) }
        assertContains(failure.message!!, "refuses what it has packed itself")
    }

    @Test
    fun whatAnExportBringsIsTakenWhereItFits() {
        val export = ExportFolder.open(writeExport(temporary(), "tiny"))
        val file = File(export.directory, "packed/phone.cache").also { it.parentFile.mkdirs() }
        file.writeText("packed elsewhere")
        val (pte, sha256) = export.identity.sha256 to sha256Of(file)
        val packed = PackedWeights("packed/phone.cache", "a CPU", "1.5.1", pte, sha256, file.length())
        assertFalse(cache.bring(packed, export, "1.5.1", "another CPU"))
        assertFalse(cache.bring(packed, export, "1.6.0", "a CPU"))
        assertFalse(cache.bring(packed.copy(pteSha256 = "00"), export, "1.5.1", "a CPU"))
        assertTrue(cache.bring(packed, export, "1.5.0", "a CPU"))
        assertTrue(cache.believed())
        file.writeText("PACKED elsewhere")
        val failure = assertFailsWith<Failure> { cache.bring(packed, export, "1.5.1", "a CPU") }
        assertContains(failure.message!!, "is damaged or gone")
    }

    private fun File.appendIf(changes: Boolean): String {
        val before = readText()
        if (changes) appendText(" more")
        return before
    }
}
