// Write the results file that the other languages' readers are tested with:
//
//     swift run bench-fixture ../../tests/fixtures/results/swift.json
//
// The same content as tests/fixtures/results/python.json, except for the harness.

import BenchCore
import Foundation

var results = Results(
  created: "2026-01-02T03:04:05Z",
  device: Device(kind: "host", model: "a machine", os: "Linux", cpu: "a CPU", cores: 2, performanceCores: 2),
  export: ExportIdentity(
    name: "tiny", plan: "2:3", sha256: String(repeating: "ab", count: 32), fileBytes: 1000, tensorBytes: 990,
    unsharedBytes: 1200),
  settings: Settings(harness: "swift", runtime: "executorch 1.5.1", threads: 1, weightCache: true, packedCache: true)
).failed("the system took the memory away")
results.load = Load(first: Samples(seconds: [2.0]), later: Samples(seconds: [0.1, 0.3, 0.2]))
results.firstToken = FirstToken(
  first: TokenSamples(seconds: [2.5], tokens: 8), later: TokenSamples(seconds: [0.5, 0.75], tokens: 8))
results.forward = Samples(seconds: [0.01, 0.02, 0.03, 0.02, 0.02])
results.decode = TokenSamples(seconds: [0.5, 0.25, 1.0], tokens: 10)
results.tokenLatency = Samples(seconds: [0.05, 0.025, 0.1])
results.decodeAtDepth = [DepthSamples(depth: 4, seconds: [0.5], tokens: 10)]
results.threadsSweep = [
  ThreadSamples(
    threads: 2, prefill: TokenSamples(seconds: [0.25], tokens: 8), decode: TokenSamples(seconds: [0.5], tokens: 10))
]
results.sustained = [Window(at: 1.5, tokens: 20, seconds: 1.25)]
results.memory = Memory(anonymous: 10, file: 20, peak: 40, footprint: 15, footprintPeak: 30)
results.idleMemory = Memory(anonymous: 1, file: 2, peak: 3)
results.conditions = [
  Condition(
    at: 0, thermal: "nominal", clocksHz: [1_000_000_000, 2_000_000_000], chargeUah: 3_000_000, batteryLevel: 0.5,
    charging: false, batteryCelsius: 25.5)
]
results.likeliest = [Likely(token: 7, logit: 1.5), Likely(token: 9, logit: -0.25)]
results.tokens = [1, 2, 3]
results.expectedTokens = [1, 2, 4]
results.warnings = ["w"]

guard CommandLine.arguments.count == 2 else {
  FileHandle.standardError.write(Data("usage: bench-fixture FILE\n".utf8))
  exit(2)
}
try results.write(URL(fileURLWithPath: CommandLine.arguments[1]))
