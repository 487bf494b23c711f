"""The process: child processes with limits, memory given back, seconds and peak memory by stage."""
