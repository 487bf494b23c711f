"""ARM64 emulation: instructions, and the packed file of a phone."""
