// What Gradle generates.

package dev.sharpmobile.bench.app

object BuildConfig {
    const val EXECUTORCH = "1.5.1"
}
