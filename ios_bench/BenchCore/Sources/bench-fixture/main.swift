// Write the results file by which the languages' schemas are held against each other:
//
//     swift run bench-fixture ../../tests/fixtures/results/swift.json
//
// The same content as tests/fixtures/results/python.json, up to the harness.

import BenchCore
import Foundation

var results = Results(
  created: "2026-01-02T03:04:05Z",
  device: Device(kind: "host", model: "a machine", os: "Linux", cpu: "a CPU", cores: 2),
  export: ExportIdentity(
    name: "tiny", plan: "2:3", sha256: String(repeating: "ab", count: 32), fileBytes: 1000, tensorBytes: 990,
    unsharedBytes: 1200),
  settings: Settings(harness: "swift", runtime: "executorch 1.5.1", threads: 1, weightCache: true, packedCache: true)
).failed("the system took the memory away")
results.load = Load(first: Samples(seconds: [2.0]), later: Samples(seconds: [0.1, 0.3, 0.2]))
results.forward = Samples(seconds: [0.01, 0.02, 0.03, 0.02, 0.02])
results.decode = TokenSamples(seconds: [0.5, 0.25, 1.0], tokens: 10)
results.memory = Memory(anonymous: 10, file: 20, peak: 40)
results.likeliest = [Likely(token: 7, logit: 1.5), Likely(token: 9, logit: -0.25)]
results.tokens = [1, 2, 3]
results.warnings = ["w"]

guard CommandLine.arguments.count == 2 else {
  FileHandle.standardError.write(Data("usage: bench-fixture FILE\n".utf8))
  exit(2)
}
try results.write(URL(fileURLWithPath: CommandLine.arguments[1]))
