"""Process control: child processes with limits, release of memory, time and peak memory of each step."""
