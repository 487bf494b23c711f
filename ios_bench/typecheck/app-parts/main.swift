// Parts of the app without a screen, for tests:
//
//     app-parts request DOCUMENTS MODELS    what the app makes of the environment that it is started with
//     app-parts table RESULTS…              the rows of its table

import BenchCore
import Foundation

let files = CommandLine.arguments.dropFirst(2).map { URL(fileURLWithPath: $0) }
switch CommandLine.arguments[1] {
case "request":
  if let request = HandsFree(ProcessInfo.processInfo.environment, documents: files[0], models: files[1]) {
    let plan = request.plan
    print(request.exports.map(\.path).joined(separator: ","))
    print(request.out.path)
    print(plan.repetitions, plan.threads, plan.prefill, plan.decode, plan.depths, plan.threadsSweep, plan.sustain)
    print(request.refusal ?? "accepted")
  } else {
    print("no request")
  }
default:
  let results = try files.map { try Results.parse(String(contentsOf: $0, encoding: .utf8)) }
  for row in Metric.rows(results) {
    print(([row.name] + results.map { row.cell($0, first: results[0]) }).joined(separator: " | "))
  }
}
