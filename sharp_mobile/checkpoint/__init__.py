"""From what a user has (a directory, a hub id, a GGUF file, a configuration) to a model, and back to a directory."""
