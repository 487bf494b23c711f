"""Measuring what an export costs."""
