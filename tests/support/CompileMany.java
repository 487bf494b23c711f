// Kotlin's compiler, many times in one process: a start of the JVM for each takes longer than the compilation.
//
// Standard input: a line for each compilation, a file with an argument a line. Standard output, for each: what the
// compiler said, then a line "@@ CODE".

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

public class CompileMany {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] given = Files.readAllLines(Path.of(line)).toArray(String[]::new);
            System.out.println("@@ " + new K2JVMCompiler().exec(System.out, given));
        }
    }
}
