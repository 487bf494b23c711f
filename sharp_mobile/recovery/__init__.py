"""Recovering the loss: calibration activations, the closed-form warm-up, fine-tuning and the text they use."""
