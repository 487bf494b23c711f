"""Reproduce the paper's tables and figures on any model and text, next to the paper's numbers for Llama-2-7B."""
