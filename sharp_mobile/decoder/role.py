"""What a linear of a decoder is for, which decides its bits, how it is rounded and where its bytes are counted."""

from typing import Literal

# A projection of attention; one of an MLP, shared or not; a matrix of recovery parameters; the LM head.
LinearRole = Literal["attention", "mlp", "recovery", "lm_head"]
