// swift-tools-version: 6.0
// The phone's benchmark on a Linux computer: BenchCore around host_bench/engine.h, which runs a real .pte.
//
//     python -c 'from sharp_mobile.bench.runner import build_engine; print(build_engine())'
//     swift build -c release -Xlinker -L<its directory> -Xlinker -rpath -Xlinker <its directory>

import PackageDescription

let package = Package(
  name: "HostBench",
  dependencies: [.package(path: "../BenchCore")],
  targets: [
    .systemLibrary(name: "CSharpEngine"),
    .executableTarget(
      name: "sharp-bench", dependencies: ["CSharpEngine", .product(name: "BenchCore", package: "BenchCore")]),
  ]
)
