// Statistics of a list of seconds, and a picture of a list of numbers.

public enum Statistics {
  public static func mean(_ values: [Double]) -> Double {
    values.reduce(0, +) / Double(values.count)
  }

  /// Of a sample; 0 for a single value.
  public static func sampleStandardDeviation(_ values: [Double]) -> Double {
    if values.count < 2 { return 0 }
    let middle = mean(values)
    let squares = values.map { ($0 - middle) * ($0 - middle) }
    return (squares.reduce(0, +) / Double(values.count - 1)).squareRoot()
  }

  /// The value in the middle; of an even number the mean of the two.
  public static func median(_ values: [Double]) -> Double {
    percentile(values, 50)
  }

  /// The value that `percent` of the values do not exceed, linear between the closest ranks.
  public static func percentile(_ values: [Double], _ percent: Double) -> Double {
    let sorted = values.sorted()
    let rank = percent / 100 * Double(sorted.count - 1)
    let low = Int(rank)
    let high = min(low + 1, sorted.count - 1)
    return sorted[low] + (rank - Double(low)) * (sorted[high] - sorted[low])
  }

  public static func minimum(_ values: [Double]) -> Double {
    values.min()!
  }

  /// By the median run.
  public static func tokensPerSecond(_ samples: TokenSamples) -> Double {
    Double(samples.tokens) / median(samples.seconds)
  }

  /// The values as a row of bars, from 0 to the largest; where there are more than `width`, a bar is the mean of its share.
  public static func sparkline(_ values: [Double], width: Int) -> String {
    let bars = min(width, values.count)
    let shares = (0..<bars).map { mean(Array(values[$0 * values.count / bars..<($0 + 1) * values.count / bars])) }
    let largest = shares.max() ?? 0
    let levels = Array("▁▂▃▄▅▆▇█")
    return String(shares.map { levels[largest > 0 ? Int((7 * max(0, $0) / largest + 0.5).rounded(.down)) : 0] })
  }
}
