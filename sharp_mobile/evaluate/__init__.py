"""Evaluate a model: perplexity, downstream tasks, generation."""
