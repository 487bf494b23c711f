"""Baselines with as many parameters as SHARP: layer pruning, LLM-Pruner and Basis Sharing.

Each is a function that changes a Hugging Face model in place and returns its parameter counts. (Direct sharing is a
share plan without recovery parameters: `share.share_layers`.)
"""
