"""ARM64 emulation: instruction counts, and packed weights for phones."""
