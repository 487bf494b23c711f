"""A Hugging Face model: the families that are supported, and layers that share."""
