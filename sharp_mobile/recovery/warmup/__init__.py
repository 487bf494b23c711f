"""The warm-up: recovery parameters fitted layer by layer (paper, section 3.2)."""
