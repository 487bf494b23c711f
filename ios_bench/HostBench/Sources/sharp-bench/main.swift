// Benchmark exports on this computer as a phone does, and write their results files.
//
//     sharp-bench build/exports/shared build/exports/unshared --out build/results --repetitions 3

import BenchCore
import Foundation

func complain(_ line: String) { FileHandle.standardError.write(Data("\(line)\n".utf8)) }

do {
  let options = try Options(Array(CommandLine.arguments.dropFirst()))
  let session = Session(
    plan: options.plan, engine: HostEngine(), device: ThisMachine.device,
    room: { ThisMachine.room(at: options.caches.deletingLastPathComponent()) }, condition: ThisMachine.condition,
    caches: options.caches, status: options.out.map { Status($0.appendingPathComponent("status.json")) },
    resultsFile: options.resultsFile, say: complain, stop: { nil })
  let results = try session.run(options.exports)
  for (export, found) in zip(options.exports, results) {
    print(options.resultsFile(export).path)
    if let error = found.error { complain("error: \(error)") }
  }
  exit(results.contains { $0.error != nil } ? 1 : 0)
} catch {
  complain("error: \(told(error))")
  exit(1)
}
