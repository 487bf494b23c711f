"""Benchmarks on real phones over USB."""
