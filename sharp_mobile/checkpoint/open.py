"""Open a checkpoint, whatever it comes as, and write and read SHARP checkpoints.

smollm2-135m-instruct     a packaged model           ─┐
models/Llama-3.2-1B/      a Hugging Face directory    │    check what the files say,
model.Q8_0.gguf           a GGUF file                 ├──► load, look for NaN and Inf  ──► Checkpoint
org/name                  a repository of the hub     │
out/llama-sharp/          a SHARP checkpoint         ─┘
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from sharp_mobile.checkpoint.build import assemble, on_meta, read_generation_config, ready, skeleton, without_weights
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.config import CONFIG_JSON
from sharp_mobile.checkpoint.gguf_fields import gguf_warnings
from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.checkpoint.gguf_weights import gguf_names, gguf_weights
from sharp_mobile.checkpoint.hugging_face import config_of, gguf_config, quiet
from sharp_mobile.checkpoint.locate import HUB_DESCRIPTION, HUB_PICKLES, HUB_WEIGHTS, locate
from sharp_mobile.checkpoint.other_formats import ADAPTER_CONFIG
from sharp_mobile.checkpoint.random_weights import open_random
from sharp_mobile.checkpoint.tokenizer import load_tokenizer, tokenizer_warnings
from sharp_mobile.checkpoint.tokenizer_files import tokenizer_files
from sharp_mobile.checkpoint.weight_files import (
    WEIGHTS,
    check_layers,
    check_tensors,
    mapped_tensors,
    stored_tensors,
    weight_files,
)
from sharp_mobile.errors import prefixed
from sharp_mobile.files.digests import fingerprint_of
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.model.share import share_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries
from sharp_mobile.recipe.sharp_json import SHARP_JSON, check_undamaged, read_sharing
from sharp_mobile.recipe.source import Source


def open_checkpoint(source: Source | str | Path, *, dtype: torch.dtype | None = torch.float32) -> Checkpoint:
    """Open a packaged model, a Hugging Face directory, a GGUF file, a hub repository or a SHARP checkpoint.

    Args:
        source: a name in `PACKAGED_MODELS`, a path, `org/name`, or `random:` and the path of a config.json. Code of a
            checkpoint is never run, and a pickle is read only if the `Source` allows it.
        dtype: of the loaded weights; None leaves them in their files, mapped, with the types that they have there (a
            GGUF file is always read).

    Raises:
        SharpError: nothing is there, the family is not supported, or files are missing, cut short, broken, not those
            of config.json, or hold NaN or Inf.
    """
    source = Source.of(source)
    if source.kind == "random":
        return open_random(source, dtype)
    with quiet():
        path = locate(source, [*HUB_DESCRIPTION, *HUB_WEIGHTS], fallback=HUB_PICKLES if source.allow_pickle else ())
        if not path.is_dir():
            return _open_gguf(source, path, dtype)
        if is_regular_file(path / SHARP_JSON):
            return _open_sharp(source, path, dtype)
        return _open_directory(source, path, dtype)


def _open_directory(source: Source, path: Path, dtype: torch.dtype | None) -> Checkpoint:
    config = config_of(path)
    files = weight_files(path, allow_pickle=source.allow_pickle)
    stored = stored_tensors(files)
    check_layers(stored, config.num_hidden_layers, path / CONFIG_JSON)
    blueprint = on_meta(config, path / CONFIG_JSON)
    warnings = check_tensors(stored, blueprint.state_dict(), blueprint.all_tied_weights_keys, directory=path)
    if is_regular_file(path / ADAPTER_CONFIG):
        warnings.append(
            f"{path / ADAPTER_CONFIG}: the adapter in this directory is not applied; merge it first to use it"
        )
    state = mapped_tensors(files)
    for name, other in blueprint.all_tied_weights_keys.items():
        if name in state and other in state and not torch.equal(state[name], state[other]):
            config.tie_word_embeddings = False
            warnings.append(f"{path}: config.json ties the LM head to the embedding, but they differ; both are used")
    model = skeleton(config, path / CONFIG_JSON)
    assemble(model, {name: state[name] for name in model.state_dict() if name in state}, dtype)
    read_generation_config(model, path)
    files = [path / CONFIG_JSON, *files, *tokenizer_files(path)]
    return _checkpoint(source, path, ready(model, path), files, warnings)


def _open_gguf(source: Source, path: Path, dtype: torch.dtype | None) -> Checkpoint:
    header = gguf_header(path)
    config = gguf_config(header)
    blueprint = on_meta(config, path)
    names = gguf_names(header, blueprint.state_dict(), blueprint.all_tied_weights_keys.keys(), config.num_hidden_layers)
    model = skeleton(config, path)
    assemble(model, gguf_weights(header, names, config), dtype or torch.float32)
    return _checkpoint(source, path, ready(model, path), [path], gguf_warnings(header))


def _open_sharp(source: Source, path: Path, dtype: torch.dtype | None) -> Checkpoint:
    check_undamaged(path, CONFIG_JSON, WEIGHTS)
    config = config_of(path)
    weights = weight_files(path)
    stored = stored_tensors(weights)
    check_layers(stored, config.num_hidden_layers, path / CONFIG_JSON)
    plan, recovery = read_sharing(path / SHARP_JSON, config.num_hidden_layers)
    blueprint = on_meta(config, path / CONFIG_JSON)
    with prefixed(path / SHARP_JSON), torch.device("meta"):
        share_layers(blueprint, plan, recovery)
    check_tensors(stored, blueprint.state_dict(), blueprint.all_tied_weights_keys, directory=path)
    model = without_weights(skeleton(config, path / CONFIG_JSON))
    share_layers(model, plan, recovery)
    assemble(model, mapped_tensors(weights), dtype)
    read_generation_config(model, path)
    files = [path / CONFIG_JSON, path / SHARP_JSON, *weights, *tokenizer_files(path)]
    return _checkpoint(source, path, ready(model, path), files, (), plan, recovery)


def _checkpoint(
    source: Source,
    path: Path,
    model: PreTrainedModel,
    files: list[Path],
    warnings: Iterable[str],
    plan: SharePlan | None = None,
    recovery: Recoveries | None = None,
) -> Checkpoint:
    """The checkpoint of a loaded model with its tokenizer; `files` are those whose content identifies it."""
    tokenizer = load_tokenizer(path)
    return Checkpoint(
        name=source.name,
        source=str(source),
        path=path,
        model=model,
        fingerprint=fingerprint_of(files),
        plan=plan,
        recovery=recovery,
        warnings=(*warnings, *tokenizer_warnings(path, tokenizer, model.config.vocab_size)),
        _tokenizer=tokenizer,
    )
