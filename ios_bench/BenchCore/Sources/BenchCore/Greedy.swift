// The likeliest tokens.

public enum Greedy {
  /// The token with the largest logit; of equal ones the first.
  public static func argmax(_ logits: [Float]) -> Int64 {
    logits.withUnsafeBufferPointer { values in
      var best = 0
      for token in 1..<max(1, values.count) where values[token] > values[best] { best = token }
      return Int64(best)
    }
  }

  /// The tokens with the largest logits, in descending order; of equal ones the smaller token comes first.
  public static func likeliest(_ logits: [Float], _ count: Int) -> [Likely] {
    let order = logits.indices.sorted { logits[$0] != logits[$1] ? logits[$0] > logits[$1] : $0 < $1 }
    return order.prefix(count).map { Likely(token: Int64($0), logit: Double(logits[$0])) }
  }

  /// The likeliest tokens one after the other, from the prediction that stands; each of them but the last is fed.
  public static func continuation(
    _ model: any LoadedModel, _ logits: [Float], position: Int64, count: Int, stop: [Int64]
  ) throws -> [Int64] {
    var tokens: [Int64] = []
    var next = logits
    while tokens.count < count {
      let token = argmax(next)
      tokens.append(token)
      if tokens.count == count || stop.contains(token) { break }
      next = try model.step([token], position: position + Int64(tokens.count) - 1)
    }
    return tokens
  }

  /// Seconds of each of `count` tokens after the prediction that stands: a step and its argmax. No token ends it.
  public static func timedContinuation(
    _ model: any LoadedModel, _ logits: [Float], position: Int64, count: Int, clock: () -> Double
  ) throws -> [Double] {
    var seconds: [Double] = []
    var token = argmax(logits)
    while seconds.count < count {
      let start = clock()
      token = argmax(try model.step([token], position: position + Int64(seconds.count)))
      seconds.append(max(1e-9, clock() - start))
    }
    return seconds
  }
}
