"""What SHARP is compared with at equal numbers of parameters: layer pruning, LLM-Pruner and Basis Sharing.

Each is a function that takes a Hugging Face model and changes it in place, and says what it kept. (Direct sharing is a
share plan without recovery parameters: `share.share_layers`.)
"""
