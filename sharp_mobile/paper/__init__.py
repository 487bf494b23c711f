"""The paper's tables in shape, on any model and text, beside the paper's own numbers (which are another model's)."""
