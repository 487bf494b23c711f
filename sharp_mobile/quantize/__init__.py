"""From a float decoder to 4 and 8 bits: the nearest codes, GPTQ, bit allocation; and fake quantization for training."""
