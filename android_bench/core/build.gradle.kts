import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_17

java {
    sourceCompatibility = JavaVersion.VERSION_17
    targetCompatibility = JavaVersion.VERSION_17
}

dependencies {
    testImplementation(libs.kotlin.test)
}

tasks.test {
    systemProperty("sharp.fixtures", rootDir.resolve("../tests/fixtures/results").path)
}
