"""Benchmark exports: load time, latency, memory and instructions."""
