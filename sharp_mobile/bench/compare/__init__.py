"""Compare exports and their measurements side by side."""
