// What Foundation's decoder leaves to be done: pairs of two types, complaints for people, and keys that nobody knows.

import Foundation

extension Likely: Codable {
  public init(from decoder: any Decoder) throws {
    var pair = try decoder.unkeyedContainer()
    token = try pair.decode(Int64.self)
    logit = try pair.decode(Double.self)
  }

  public func encode(to encoder: any Encoder) throws {
    var pair = encoder.unkeyedContainer()
    try pair.encode(token)
    try pair.encode(logit)
  }
}

/// The first of the decoder's complaints as `field: what is wrong`.
func problem(_ error: any Error) -> String {
  func path(_ keys: [any CodingKey]) -> String {
    keys.isEmpty ? "the file" : keys.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: ".")
  }
  switch error {
  case DecodingError.keyNotFound(let key, let context): return "\(path(context.codingPath + [key])): is missing"
  case DecodingError.valueNotFound(_, let context): return "\(path(context.codingPath)): is missing"
  case DecodingError.typeMismatch(_, let context): return "\(path(context.codingPath)): is of another type"
  case DecodingError.dataCorrupted(let context): return "\(path(context.codingPath)): \(context.debugDescription)"
  default: return error.localizedDescription
  }
}

/// The path of the first value that was given and is not kept; nil if all is.
func lost(_ given: Any, in kept: Any?, at path: String = "") -> String? {
  if given is NSNull { return nil }
  guard let kept else { return path }
  if let given = given as? [String: Any], let kept = kept as? [String: Any] {
    return given.keys.sorted().lazy.compactMap {
      lost(given[$0]!, in: kept[$0], at: path.isEmpty ? $0 : "\(path).\($0)")
    }.first
  }
  if let given = given as? [Any], let kept = kept as? [Any] {
    if given.count != kept.count { return path }
    return zip(given, kept).lazy.compactMap { lost($0, in: $1, at: path) }.first
  }
  return nil
}
