"""The `.pte` file itself: its structure, read without running it, and the runtime that runs it."""
