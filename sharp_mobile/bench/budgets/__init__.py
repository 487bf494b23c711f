"""Budgets for CI: limits of sizes, memory and instructions."""
