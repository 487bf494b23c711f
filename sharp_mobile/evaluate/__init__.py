"""Measuring a model: perplexity and what builds on it."""
