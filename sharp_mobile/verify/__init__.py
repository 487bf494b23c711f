"""What is asked of every export: inspect, agreement, manifest, report, the runner's tokenizer; and its size before."""
