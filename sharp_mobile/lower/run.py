"""From a quantized decoder to a `.pte` file: lower its segments, put the program together, write it."""

import gc
from pathlib import Path

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import read_codes
from sharp_mobile.decoder.options import DecoderOptions
from sharp_mobile.lower.program import assemble, forget_weights, lower_segments
from sharp_mobile.lower.pte_file import write_pte_file
from sharp_mobile.pte.read import stored_places
from sharp_mobile.system.timing import Stages


def write_pte(decoder: Decoder, checkpoint: Checkpoint, path: Path, stages: Stages) -> dict[str, str]:
    """Lower a decoder to a `.pte`; returns the key under which each weight is stored."""
    with stages.stage("lower segments"):
        lowered, keys = lower_segments(decoder)
    with stages.stage("assemble"):
        program = assemble(lowered, _metadata(decoder.options, checkpoint))
    with stages.stage("write"):
        write_pte_file(program, path)
    read_codes(decoder, path, stored_places(path))
    forget_weights(lowered)
    del program
    gc.collect()  # programs refer to themselves
    return keys


def _metadata(options: DecoderOptions, checkpoint: Checkpoint) -> dict[str, object]:
    """The constant methods that ExecuTorch's LLM runner reads."""
    metadata: dict[str, object] = {
        "get_max_seq_len": options.max_length if options.chunk == options.max_length - 1 else options.chunk,
        "get_max_context_len": options.max_length,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": options.attention == "custom_sdpa",
        "enable_dynamic_shape": True,
        "get_vocab_size": checkpoint.config.vocab_size,
        "get_n_layers": checkpoint.config.num_hidden_layers,
        "get_eos_ids": checkpoint.eos_token_ids,
    }
    if checkpoint.bos_token_id is not None:
        metadata["get_bos_id"] = checkpoint.bos_token_id
    return metadata
