"""The model as it is exported, in float: segments, attention and KV cache, compared with Hugging Face."""
