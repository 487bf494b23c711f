// Plugins are named here once, so that both modules are compiled by one Kotlin; AGP 9 compiles the app's with it.

plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.kotlin.jvm) apply false
}
