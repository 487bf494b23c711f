// swift-tools-version: 6.0
// The benchmark without a screen and without ExecuTorch: what is measured, in which order, and how it is written down.
// It builds on Apple's systems and on Linux, where its tests run too.

import PackageDescription

let package = Package(
  name: "BenchCore",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [.library(name: "BenchCore", targets: ["BenchCore"])],
  targets: [
    .target(name: "BenchCore"),
    .executableTarget(name: "bench-fixture", dependencies: ["BenchCore"]),
    .testTarget(name: "BenchCoreTests", dependencies: ["BenchCore"]),
  ]
)
