// One run from directories to results files: what the app's screen, a start without hands and a command line share.
//
//     directories ── open ──► exports ── BenchProtocol ──► results, each in its file
//                      │                      │
//                      └─ broken: failed      └─ Journal and Status at every stage

import Foundation

/// The run's state for whoever waits: {"state": "running", "progress": "repetition 2 of 5: name", "error": null}.
/// It has failed if it could not be done as a whole; an export that failed has its own results file that says so.
public struct Status: Sendable {
  public let path: URL

  public init(_ path: URL) { self.path = path }

  public func running(_ progress: String) throws { try write("running", progress, nil) }

  public func done() throws { try write("done", nil, nil) }

  public func failed(_ error: String) throws { try write("failed", nil, error) }

  private func write(_ state: String, _ progress: String?, _ error: String?) throws {
    let content: [String: Any] = ["state": state, "progress": progress ?? NSNull(), "error": error ?? NSNull()]
    let data = try JSONSerialization.data(withJSONObject: content, options: [.sortedKeys])
    try replaceText(path, String(decoding: data, as: UTF8.self) + "\n")
  }
}

/// `condition`: the device's state at some seconds since the start of the run. `resultsFile`: where an export's directory
/// has its results. `status`: nil for none. `say` gets every line of progress. `stop`: why the run shall end, if it shall.
public final class Session: Sendable {
  private let plan: Plan
  private let engine: any Engine
  private let device: @Sendable () -> Device
  private let room: @Sendable () -> Room
  private let condition: @Sendable (Double) -> Condition
  private let caches: URL?
  private let status: Status?
  private let resultsFile: @Sendable (URL) -> URL
  private let say: @Sendable (String) -> Void
  private let stop: @Sendable () -> Stop?
  private let journals = Journals()

  public init(
    plan: Plan, engine: any Engine, device: @escaping @Sendable () -> Device, room: @escaping @Sendable () -> Room,
    condition: @escaping @Sendable (Double) -> Condition, caches: URL?, status: Status?,
    resultsFile: @escaping @Sendable (URL) -> URL, say: @escaping @Sendable (String) -> Void,
    stop: @escaping @Sendable () -> Stop?
  ) {
    (self.plan, self.engine, self.device, self.room, self.condition) = (plan, engine, device, room, condition)
    (self.caches, self.status, self.resultsFile, self.say, self.stop) = (caches, status, resultsFile, say, stop)
  }

  /// Run exports; results in the directories' order, those of what is no export among them.
  public func run(_ directories: [URL]) throws -> [Results] {
    do {
      try refuse(directories)
      try status?.running("opening")
      let opened = directories.map(open)
      let exports = opened.compactMap { try? $0.get() }
      var measured = BenchProtocol.run(exports, plan, engine, place(), progress: tell, stop: stop).makeIterator()
      let results = try zip(directories, opened).map { directory, export in
        switch export {
        case .success: measured.next()!
        case .failure(let failure): try unreadable(directory, failure.message)
        }
      }
      try status?.done()
      return results
    } catch {
      try status?.failed(told(error))
      throw error
    }
  }

  /// The app goes to the background: the file of the export whose launch is under way says so. From any thread.
  public func interrupted() {
    for journal in journals.all { journal.interrupted() }
  }

  private func refuse(_ directories: [URL]) throws {
    if directories.isEmpty { throw Failure("no export is named; name a directory with a manifest.json") }
    let groups = Dictionary(grouping: directories, by: \.lastPathComponent)
    guard let twice = groups.first(where: { $0.value.count > 1 }) else { return }
    throw Failure("\(twice.key): is named twice; name it once, or rename one of them")
  }

  private func open(_ directory: URL) -> Result<ExportFolder, Failure> {
    do { return .success(try ExportFolder.open(directory)) } catch { return .failure(Failure(told(error))) }
  }

  private func place() -> Place {
    Place(
      device: device, room: room, condition: condition, caches: caches,
      journal: { [resultsFile, journals] export in
        let journal = Journal(resultsFile(export.directory))
        journals.all.append(journal)
        return journal
      })
  }

  private func tell(_ line: String) {
    say(line)
    // A status that cannot be written stops no measurement; the results cannot be written either, and they say so.
    try? status?.running(line)
  }

  /// Failed results of what is no export, in their file too.
  private func unreadable(_ directory: URL, _ error: String) throws -> Results {
    let settings = Settings(
      harness: engine.harness, runtime: engine.runtime, threads: plan.threads, weightCache: engine.weightCache,
      packedCache: engine.packedCache)
    let results = Results(
      created: now(), device: device(), export: ExportFolder.unreadable(directory), settings: settings
    ).failed(error)
    try results.write(resultsFile(directory))
    return results
  }
}

/// The journals of a run: its thread adds them, and the main thread reads them.
private final class Journals: @unchecked Sendable {
  private let lock = NSLock()
  private var journals: [Journal] = []

  var all: [Journal] {
    get { lock.withLock { journals } }
    set { lock.withLock { journals = newValue } }
  }
}
