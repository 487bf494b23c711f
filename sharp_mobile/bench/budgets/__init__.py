"""Limits of sizes and latency, for CI."""
