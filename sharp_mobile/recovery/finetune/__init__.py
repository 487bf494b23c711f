"""Supervised fine-tuning of the recovery parameters of all layers together."""
