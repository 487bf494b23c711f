"""Measuring a model: perplexity, tasks and what builds on them."""
