plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "dev.sharpmobile.bench.app" // of R and BuildConfig; the activity is dev.sharpmobile.bench.BenchActivity
    compileSdk = 36

    defaultConfig {
        applicationId = "dev.sharpmobile.bench"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        buildConfigField("String", "EXECUTORCH", "\"${libs.versions.executorch.get()}\"")
        ndk.abiFilters += listOf("arm64-v8a", "x86_64") // what executorch-android brings
    }

    buildFeatures.buildConfig = true

    buildTypes {
        release {
            // Not for a shop: signed by the debug key, so that it can be installed as it is.
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation(project(":core"))
    implementation(libs.executorch)
    implementation(libs.androidx.core)
    testImplementation(libs.junit)
    androidTestImplementation(libs.androidx.test.runner)
    androidTestImplementation(libs.androidx.test.junit)
    androidTestImplementation(libs.junit)
}
