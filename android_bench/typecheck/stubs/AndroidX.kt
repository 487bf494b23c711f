// Signatures of androidx.core that the app calls.

package androidx.core.content

import android.content.Context
import android.net.Uri
import java.io.File

abstract class FileProvider : android.content.ContentProvider() {
    companion object {
        @JvmStatic
        fun getUriForFile(context: Context, authority: String, file: File): Uri =
            throw UnsupportedOperationException("a signature for the type check")
    }
}
