"""Export the same model with ExecuTorch's stock exporter."""
