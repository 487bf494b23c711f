"""Exports and their measurements side by side."""
