// What a list of seconds is summed up to.

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
    let sorted = values.sorted()
    let half = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
  }

  public static func minimum(_ values: [Double]) -> Double {
    values.min()!
  }

  /// By the median run.
  public static func tokensPerSecond(_ samples: TokenSamples) -> Double {
    Double(samples.tokens) / median(samples.seconds)
  }
}
