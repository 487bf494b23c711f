// The page of the benchmark: choose exports, run, watch, compare, share.

import BenchCore
import Foundation
import SwiftUI

/// `busy`: a chat answers, so a run would measure both.
struct BenchView: View {
  @ObservedObject var bench: BenchModel
  let busy: Bool

  var body: some View {
    NavigationStack {
      List {
        exports
        settings
        if bench.running { progress }
        if let complaint = bench.complaint { Section { Text(complaint).foregroundStyle(.red) } }
        if !bench.results.isEmpty { ResultsSection(results: bench.results, files: bench.files) }
      }
      .navigationTitle("SHARP bench")
      .toolbar {
        if bench.running {
          Button("Stop") { bench.stop() }
        } else {
          Button("Run") { bench.runChosen() }.disabled(bench.chosen.isEmpty || busy)
        }
      }
      .refreshable { await bench.refresh() }
    }
  }

  private var exports: some View {
    Section("Exports") {
      if bench.found.exports.isEmpty && bench.found.broken.isEmpty {
        Text("None. Copy an export's directory to SHARP bench/exports in Files, or run make ios MODEL=….")
      }
      ForEach(bench.found.exports, id: \.name) { export in
        Toggle(isOn: $bench.chosen[has: export.name]) {
          Text(export.name)
          Text("plan \(export.identity.plan), \(export.identity.fileBytes) bytes").font(.caption)
        }
      }
      ForEach(bench.found.broken, id: \.name) { broken in
        VStack(alignment: .leading) {
          Text(broken.name)
          Text(broken.reason).font(.caption).foregroundStyle(.red)
        }
      }
    }
    .disabled(bench.running)
  }

  private var settings: some View {
    Section("Plan") {
      Stepper("\(bench.plan.repetitions) repetitions", value: $bench.plan.repetitions, in: 1...20)
      Stepper("\(bench.plan.threads) threads", value: $bench.plan.threads, in: 1...8)
      Toggle("Sweep 1, 2, 4 and all fast cores", isOn: $bench.plan.sweeps)
      Stepper("\(bench.plan.sustain) s of decoding", value: $bench.plan.sustain, in: 0...1800, step: 60)
      Stepper("\(bench.plan.coolDown) s to cool down", value: $bench.plan.coolDown, in: 0...600, step: 30)
    }
    .disabled(bench.running)
  }

  private var progress: some View {
    Section {
      HStack {
        ProgressView()
        Text(bench.line)
      }
    }
  }
}

/// The table of what was measured, and the files.
struct ResultsSection: View {
  let results: [Results]
  let files: [URL]

  var body: some View {
    Section("Results") {
      ScrollView(.horizontal) {
        Grid(alignment: .trailing, horizontalSpacing: 16, verticalSpacing: 6) {
          GridRow {
            Text("")
            ForEach(results, id: \.export.name) { Text($0.export.name).bold() }
          }
          ForEach(Metric.rows(results), id: \.name) { metric in
            GridRow {
              Text(metric.name).gridColumnAlignment(.leading)
              ForEach(results, id: \.export.name) { Text(metric.cell($0, first: results[0])) }
            }
          }
        }
        .font(.footnote.monospacedDigit())
      }
      ForEach(results, id: \.export.name) { found in
        if let error = found.error { Text("\(found.export.name): \(error)").font(.caption).foregroundStyle(.red) }
        ForEach(found.warnings ?? [], id: \.self) { Text("\(found.export.name): \($0)").font(.caption) }
      }
      ShareLink("Share the JSON", items: files)
    }
  }
}

extension Plan {
  /// The sweep that the screen offers.
  fileprivate var sweeps: Bool {
    get { !threadsSweep.isEmpty }
    set { threadsSweep = newValue ? [1, 2, 4, 0] : [] }
  }
}
