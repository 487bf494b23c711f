"""From a (shared) Hugging Face model to a checked ExecuTorch `.pte`, layer by layer."""
