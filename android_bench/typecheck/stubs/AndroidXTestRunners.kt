// Signatures of androidx.test.ext:junit that the instrumented test names.

package androidx.test.ext.junit.runners

abstract class AndroidJUnit4(testClass: Class<*>) : org.junit.runner.Runner()
