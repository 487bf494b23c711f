// What the app makes of the environment that it is started with, and of results in its table, printed for a test:
//
//     hands-free DOCUMENTS MODELS

import BenchCore
import Foundation

let directories = CommandLine.arguments.dropFirst().map { URL(fileURLWithPath: $0, isDirectory: true) }
if let request = HandsFree(ProcessInfo.processInfo.environment, documents: directories[0], models: directories[1]) {
  let plan = request.plan
  print(request.exports.map(\.path).joined(separator: ","))
  print(request.out.path)
  print(plan.repetitions, plan.threads, plan.prefill, plan.decode)
  print(request.refusal ?? "accepted")
} else {
  print("no request")
}
