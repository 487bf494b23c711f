// The screen: choose exports, run, watch, compare, share.

import BenchCore
import SwiftUI

struct BenchView: View {
  @ObservedObject var bench: BenchModel

  var body: some View {
    NavigationStack {
      List {
        exports
        settings
        if bench.running || !bench.line.isEmpty { progress }
        if let error = bench.error { Section { Text(error).foregroundStyle(.red) } }
        if !bench.results.isEmpty { results }
      }
      .navigationTitle("SHARP bench")
      .toolbar {
        if bench.running {
          Button("Stop", action: bench.stop)
        } else {
          Button("Run", action: bench.runChosen).disabled(bench.chosen.isEmpty)
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
        Toggle(isOn: choice(export.name)) {
          Text(export.name)
          Text("plan \(export.identity.plan), \(export.identity.fileBytes.formatted()) bytes").font(.caption)
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
      Stepper("\(bench.repetitions) repetitions", value: $bench.repetitions, in: 1...20)
      Stepper("\(bench.threads) threads", value: $bench.threads, in: 1...8)
    }
    .disabled(bench.running)
  }

  private var progress: some View {
    Section {
      HStack {
        if bench.running { ProgressView() }
        Text(bench.line)
      }
    }
  }

  private var results: some View {
    Section("Results") {
      ScrollView(.horizontal) {
        Grid(alignment: .trailing, horizontalSpacing: 16, verticalSpacing: 6) {
          GridRow {
            Text("")
            ForEach(bench.results, id: \.export.name) { Text($0.export.name).bold() }
          }
          ForEach(Figure.all, id: \.name) { figure in
            GridRow {
              Text(figure.name).gridColumnAlignment(.leading)
              ForEach(bench.results, id: \.export.name) { Text(figure.cell($0, beside: bench.results[0])) }
            }
          }
        }
        .font(.footnote.monospacedDigit())
      }
      ForEach(bench.results, id: \.export.name) { found in
        if let error = found.error { Text("\(found.export.name): \(error)").font(.caption).foregroundStyle(.red) }
        ForEach(found.warnings ?? [], id: \.self) { Text("\(found.export.name): \($0)").font(.caption) }
      }
      ShareLink("Share the JSON", items: bench.files)
    }
  }

  private func choice(_ name: String) -> Binding<Bool> {
    Binding(
      get: { bench.chosen.contains(name) },
      set: { on in if on { bench.chosen.insert(name) } else { bench.chosen.remove(name) } })
  }
}
