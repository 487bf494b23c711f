// Signatures of androidx.test:runner that the instrumented test calls.

package androidx.test.platform.app

import android.app.Instrumentation
import android.os.Bundle

object InstrumentationRegistry {
    @JvmStatic fun getInstrumentation(): Instrumentation = signatureOnly()

    @JvmStatic fun getArguments(): Bundle = signatureOnly()
}

private fun signatureOnly(): Nothing = throw UnsupportedOperationException("a signature for the type check")
