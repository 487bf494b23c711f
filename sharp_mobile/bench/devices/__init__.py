"""Benchmarks on real phones, driven over their cable."""
