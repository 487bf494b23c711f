"""Open a checkpoint, whatever it comes as, and write and read SHARP checkpoints.

    smollm2-135m-instruct     a packaged model           ─┐
    models/Llama-3.2-1B/      a Hugging Face directory    │    check what the files say,
    model.Q8_0.gguf           a GGUF file                 ├──► load, look for NaN and Inf  ──► Checkpoint
    org/name                  a repository of the hub     │
    out/llama-sharp/          a SHARP checkpoint         ─┘

A SHARP checkpoint is a directory as Hugging Face writes it, except that `model.safetensors` has the recovery
parameters in the place of the targets' MLP weights, and that `sharp.json` says which layers share:

    {"format_version": 1, "plan": "3:4, 5:6", "layers": 30, "form": "lora", "rank": 64,
     "produced_by": ..., "report": ...}
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.utils import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from sharp_mobile import __version__
from sharp_mobile.config_check import check_config, check_counts, token_ids
from sharp_mobile.digests import fingerprint_of, sha256_of
from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.families import FAMILIES, Family, family_of
from sharp_mobile.gguf_config import gguf_config, gguf_warnings
from sharp_mobile.gguf_file import gguf_header, gguf_names, gguf_weights
from sharp_mobile.json_file import read_json
from sharp_mobile.other_formats import ADAPTER_CONFIG, TELLING_FILES, other_format
from sharp_mobile.outputs import replace_directory
from sharp_mobile.packaged import PACKAGED_MODELS, packaged_model
from sharp_mobile.pages import page_out
from sharp_mobile.paths import is_regular_file
from sharp_mobile.plan import SharePlan
from sharp_mobile.share import Recoveries, share_layers, shared_layers
from sharp_mobile.sharp_json import (
    FORMAT_VERSION,
    SHARP_JSON,
    SharpDescription,
    damaged_files,
    describe_recoveries,
    read_recoveries,
)
from sharp_mobile.tokenizer_files import (
    TOKENIZER_PATTERNS,
    load_tokenizer,
    tokenizer_files,
    tokenizer_warnings,
    write_tokenizer,
)
from sharp_mobile.weight_files import (
    WEIGHTS,
    check_layers,
    check_tensors,
    mapped_tensors,
    stored_tensors,
    weight_files,
)

CONFIG_JSON = "config.json"
GENERATION_JSON = "generation_config.json"
RANDOM = "random:"  # and a config.json: an architecture without weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# What is downloaded of a repository of the hub: what is read, and the small files that tell what it is if it is no
# model. (`*` matches a slash, too; `_HUB_UNREAD` leaves out folders and the variants that diffusers knows.)
_HUB_DESCRIPTION = (CONFIG_JSON, GENERATION_JSON, SHARP_JSON, *TELLING_FILES, *TOKENIZER_PATTERNS)
_HUB_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_HUB_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_HUB_UNREAD = ["*/*.safetensors", "*/*.bin", "*/*.json", "*.fp16*", "*.bf16*", "*.int8*", "*.non_ema*"]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        name: a short name for files and reports.
        source: what the user gave.
        path: the directory or the GGUF file that was read.
        model: the Hugging Face causal language model, in eval mode, frozen; shared already if it is a SHARP checkpoint.
        fingerprint: 16 hexadecimal digits; the same for the same configuration and weight files, wherever they lie.
        plan, recovery: of a SHARP checkpoint, else None.
        random: the weights are random numbers, so there is nothing to recover.
        warnings: what the user should know, a line each.
    """

    name: str
    source: str
    path: Path
    model: PreTrainedModel
    fingerprint: str
    plan: SharePlan | None = None
    recovery: Recoveries | None = None
    warnings: tuple[str, ...] = ()
    random: bool = False
    _tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.config.model_type)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that came with the weights, or None."""
        return self._tokenizer

    def tokenizer_for(self, purpose: str) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            SharpError: there is none, and `purpose` ("plan auto", "fine-tuning") reads text.
        """
        if self._tokenizer is None:
            raise SharpError(f"{self.path}: {purpose} reads text, and there is no tokenizer; add tokenizer.json")
        return self._tokenizer

    def write_tokenizer(self, directory: Path) -> None:
        """Write the tokenizer's files, its chat template among them; nothing if there is no tokenizer."""
        if self._tokenizer is not None:
            write_tokenizer(self._tokenizer, self.path, directory)

    @property
    def eos_token_ids(self) -> list[int]:
        """The tokens that end a text: those of generation_config.json, of config.json and of the tokenizer."""
        ids: list[int] = []
        for source in (self.model.generation_config, self.config, self._tokenizer):
            ids += self._token_ids(source, "eos_token_id")
        return list(dict.fromkeys(ids))

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, or None."""
        for source in (self.model.generation_config, self.config, self._tokenizer):
            if ids := self._token_ids(source, "bos_token_id"):
                return ids[0]
        return None

    def _token_ids(self, source: Any, name: str) -> list[int]:
        field = f"{self.path}: {name} of its {type(source).__name__}"
        return token_ids(getattr(source, name, None), self.config.vocab_size, field)


def open_checkpoint(
    source: str | Path, *, allow_pickle: bool = False, dtype: torch.dtype | None = torch.float32, progress: bool = True
) -> Checkpoint:
    """Open a packaged model, a Hugging Face directory, a GGUF file, a hub repository or a SHARP checkpoint.

    Args:
        source: a name in `PACKAGED_MODELS`, a path, `org/name`, or `random:` and the path of a config.json.
        allow_pickle: take `pytorch_model.bin` where there are no safetensors. Code of a checkpoint is never run.
        dtype: of the loaded weights; None leaves them in their files, mapped, with the types that they have there (a
            GGUF file is always read).
        progress: show progress bars while reading, if on a terminal.

    Raises:
        SharpError: nothing is there, the family is not supported, or files are missing, cut short, broken, not those
            of config.json, or hold NaN or Inf.
    """
    source = str(source)
    if source.startswith(RANDOM):
        from sharp_mobile.random_weights import open_random  # which is built on this module

        return open_random(source, dtype)
    with quiet(progress):
        path = locate(source, [*_HUB_DESCRIPTION, *_HUB_WEIGHTS], fallback=_HUB_PICKLES if allow_pickle else ())
        if not path.is_dir():
            return _open_gguf(source, path, dtype)
        if is_regular_file(path / SHARP_JSON):
            return _open_sharp(source, path, dtype)
        return _open_directory(source, path, dtype, allow_pickle)


def checkpoint_name(source: str) -> str:
    """A short name for what `open_checkpoint` takes: the packaged name, or the last part of a path or hub id."""
    path = Path(source.removeprefix(RANDOM))
    try:
        name = path.expanduser().resolve().name
    except (OSError, RuntimeError):  # an unknown user's home, a loop of links
        name = path.name
    return name.removesuffix(".json" if source.startswith(RANDOM) else ".gguf")


def save_sharp_checkpoint(
    model: PreTrainedModel,
    plan: SharePlan,
    directory: str | Path,
    *,
    tokenizer_source: Checkpoint | None = None,
    provenance: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
) -> Path:
    """Write a shared model as a SHARP checkpoint: whole, or not at all.

    Args:
        model: a model after `share_layers` with this plan.
        directory: replaced once the new one is whole, if it is a SHARP checkpoint or empty.
        tokenizer_source: whose tokenizer to write beside the weights.
        provenance: what made it (source, commands, settings); any JSON.
        report: measurements made on the way; any JSON.

    Returns:
        The directory.

    Raises:
        SharpError: the directory cannot be written, or the disk is full.
    """
    description = SharpDescription(
        format_version=FORMAT_VERSION,
        plan=str(plan),
        layers=plan.layers,
        recovery=describe_recoveries({layer: mlp.recovery for layer, mlp in shared_layers(model).items()}),
        produced_by={"sharp_mobile": __version__, **(provenance or {})},
        report=dict(report or {}),
    )
    with replace_directory(directory) as partial:
        write_model(model, partial, tokenizer_source)
        written = sorted(path for path in partial.rglob("*") if path.is_file())
        files = {path.relative_to(partial).as_posix(): sha256_of(path) for path in written}
        sealed = description.model_copy(update={"files": files})
        (partial / SHARP_JSON).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Path(directory)


def write_model(model: PreTrainedModel, directory: Path, tokenizer_source: Checkpoint | None) -> None:
    """Write a model into an empty directory as Hugging Face does, with the tokenizer of a checkpoint if it is given."""
    # Not save_pretrained, which refuses sampling options that many models come with (Llama 2's, for one).
    model.config.to_json_file(directory / CONFIG_JSON)
    if model.generation_config is not None:
        model.generation_config.to_json_file(directory / GENERATION_JSON)
    if tokenizer_source is not None:
        tokenizer_source.write_tokenizer(directory)
    state = {name: tensor.contiguous() for name, tensor in stored_state(model).items()}
    save_file(state, directory / WEIGHTS, {"format": "pt"})


def stored_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What is stored of a model: a tied tensor, which its state dict has under each name, under the first alone."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}


def locate(source: str, wanted: Sequence[str], fallback: Sequence[str] = ()) -> Path:
    """The directory or GGUF file behind a source; of a hub repository the `wanted` files are downloaded.

    Args:
        wanted: patterns of names in a repository of the hub.
        fallback: patterns to download as well if the repository has no safetensors among the wanted.

    Raises:
        SharpError: nothing is there, or something that is no directory and no .gguf file.
    """
    if source in PACKAGED_MODELS:
        return packaged_model(source)
    path = _local(source)
    if path is not None:
        return path
    if HUB_ID.fullmatch(source) and Path(source).suffix not in (".gguf", ".safetensors", ".bin", ".yaml"):
        directory = _download(source, wanted)
        if fallback and not any(directory.glob("*.safetensors")):
            directory = _download(source, [*wanted, *fallback])
        return directory
    known = ", ".join(PACKAGED_MODELS)
    raise SharpError(
        f"{source}: no such directory or file; give a Hugging Face directory, a .gguf file, a hub id (org/name), or a "
        f"packaged model ({known})"
    )


def _local(source: str) -> Path | None:
    """The directory or GGUF file of this name; None if nothing has it."""
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # no right to look, a name too long, an unknown user's home
        raise SharpError(f"{source}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not is_regular_file(path):
        return None
    if path.suffix != ".gguf":
        raise SharpError(f"{source}: is a file, but not a .gguf; give the directory that holds config.json")
    return path


def _download(repository: str, wanted: Sequence[str]) -> Path:
    """A snapshot of a hub repository, from the local cache where it has one."""
    try:
        return Path(snapshot_download(repository, allow_patterns=list(wanted), ignore_patterns=_HUB_UNREAD))
    except GatedRepoError as error:
        raise SharpError(
            f"{repository}: its licence must be accepted first: do so on https://huggingface.co/{repository}, then "
            "run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise SharpError(
            f"{repository}: neither a directory here nor a repository of the hub; check the name, or run "
            "`hf auth login` if it is private"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SharpError(
            f"{repository}: no directory of that name, not in the local hub cache, and the hub cannot be reached; "
            "connect to the network, or download it elsewhere and give its directory"
        ) from error
    except Exception as error:  # http, tls, proxy, disk: each library below raises its own
        raise SharpError(f"{repository}: cannot be downloaded: {one_line(error)}") from error


def _open_directory(source: str, path: Path, dtype: torch.dtype | None, allow_pickle: bool) -> Checkpoint:
    config = config_of(path)
    files = weight_files(path, allow_pickle=allow_pickle)
    stored = stored_tensors(files)
    check_layers(stored, config.num_hidden_layers, path / CONFIG_JSON)
    blueprint = on_meta(config, path / CONFIG_JSON)
    warnings = check_tensors(stored, blueprint.state_dict(), blueprint.all_tied_weights_keys, directory=path)
    if is_regular_file(path / ADAPTER_CONFIG):
        warnings.append(
            f"{path / ADAPTER_CONFIG}: the adapter in this directory is not applied; merge it first if it is wanted"
        )
    state = mapped_tensors(files)
    for name, other in blueprint.all_tied_weights_keys.items():
        if name in state and other in state and not torch.equal(state[name], state[other]):
            config.tie_word_embeddings = False
            warnings.append(f"{path}: config.json ties the LM head to the embedding, but they differ; both are used")
    model = skeleton(config, path / CONFIG_JSON)
    _assemble(model, {name: state[name] for name in model.state_dict() if name in state}, dtype)
    _read_generation_config(model, path)
    tokenizer = load_tokenizer(path)
    return Checkpoint(
        name=checkpoint_name(source),
        source=source,
        path=path,
        model=_ready(model, path),
        fingerprint=fingerprint_of([path / CONFIG_JSON, *files, *tokenizer_files(path)]),
        warnings=(*warnings, *tokenizer_warnings(path, tokenizer, config.vocab_size)),
        _tokenizer=tokenizer,
    )


def _open_gguf(source: str, path: Path, dtype: torch.dtype | None) -> Checkpoint:
    header = gguf_header(path)
    config = gguf_config(header)
    check_config(config, path)
    blueprint = on_meta(config, path)
    names = gguf_names(header, blueprint.state_dict(), blueprint.all_tied_weights_keys.keys(), config.num_hidden_layers)
    model = skeleton(config, path)
    _assemble(model, gguf_weights(header, names, config), dtype or torch.float32)
    tokenizer = load_tokenizer(path)
    return Checkpoint(
        name=checkpoint_name(source),
        source=source,
        path=path,
        model=_ready(model, path),
        fingerprint=fingerprint_of([path]),
        warnings=(*gguf_warnings(header), *tokenizer_warnings(path, tokenizer, config.vocab_size)),
        _tokenizer=tokenizer,
    )


def _open_sharp(source: str, path: Path, dtype: torch.dtype | None) -> Checkpoint:
    if damaged := [name for name in damaged_files(path) if name in (CONFIG_JSON, WEIGHTS)]:
        raise SharpError(
            f"{path / damaged[0]}: is not the file that {SHARP_JSON} was written with (SHA-256); copy the checkpoint "
            "again, or recover it again"
        )
    config = config_of(path)
    weights = weight_files(path)
    stored = stored_tensors(weights)
    check_layers(stored, config.num_hidden_layers, path / CONFIG_JSON)
    plan, recovery = read_sharing(path / SHARP_JSON, config)
    blueprint = on_meta(config, path / CONFIG_JSON)
    with prefixed(path / SHARP_JSON), torch.device("meta"):
        share_layers(blueprint, plan, recovery)
    check_tensors(stored, blueprint.state_dict(), blueprint.all_tied_weights_keys, directory=path)
    model = skeleton(config, path / CONFIG_JSON)
    share_layers(model, plan, recovery)
    _assemble(model, mapped_tensors(weights), dtype)
    _read_generation_config(model, path)
    tokenizer = load_tokenizer(path)
    return Checkpoint(
        name=checkpoint_name(source),
        source=source,
        path=path,
        model=_ready(model, path),
        fingerprint=fingerprint_of([path / CONFIG_JSON, path / SHARP_JSON, *weights, *tokenizer_files(path)]),
        plan=plan,
        recovery=recovery,
        warnings=tuple(tokenizer_warnings(path, tokenizer, config.vocab_size)),
        _tokenizer=tokenizer,
    )


def read_sharing(path: Path, config: PreTrainedConfig) -> tuple[SharePlan, Recoveries]:
    """The plan and the recovery parameters that sharp.json gives the model of a configuration.

    Raises:
        SharpError: sharp.json is broken, or is for another number of layers.
    """
    description = SharpDescription.read(path)
    if description.layers != config.num_hidden_layers:
        raise SharpError(
            f"{path}: share plan: it is for {description.layers} layers and the model has {config.num_hidden_layers}"
        )
    with prefixed(path):
        plan = SharePlan.parse(description.plan, description.layers)
        return plan, read_recoveries(description.recovery, description.layers)


def config_of(directory: Path) -> PreTrainedConfig:
    """The configuration of a Hugging Face directory.

    Raises:
        SharpError: it has none, or that of another model.
    """
    path = directory / CONFIG_JSON
    if not is_regular_file(path):
        nothing = "holds no config.json; give the directory that holds config.json and the weights"
        raise SharpError(f"{directory}: {other_format(directory) or nothing}")
    return read_config(path)


def read_config(path: Path) -> PreTrainedConfig:
    """The config.json of a supported, unquantized model.

    Raises:
        SharpError: it is of another model.
    """
    content = read_json(path)
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or not model_type.isprintable() or len(model_type) > 100:
        raise SharpError(f"{path}: model_type is missing; use the config.json that belongs to these weights")
    if f"{model_type}_text" in FAMILIES:
        raise SharpError(
            f"{path}: model type '{model_type}' also takes images; give its text model ('{model_type}_text') alone"
        )
    with prefixed(path):
        family_of(model_type)
    for field_name in ("quantization_config", "quantization"):  # MLX writes the latter
        if content.get(field_name):
            raise SharpError(f"{path}: {field_name}: the checkpoint is quantized already; use the original")
    check_counts(content, path)
    with named_errors(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    check_config(config, path)
    return config


def on_meta(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model with shapes and nothing in them, to be compared with what the files say.

    Args:
        path: of the configuration, for messages.

    Raises:
        SharpError: transformers can make no model of it.
    """
    with torch.device("meta"), named_errors(path, "describes no model"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def skeleton(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model whose parameters are allocated but not set: untouched pages take no memory until `_assemble`.

    Not on the meta device, because buffers that no file holds (RoPE frequencies) must be real.

    Args:
        path: of the configuration, for messages.

    Raises:
        SharpError: transformers can make no model of it.
    """
    with no_init_weights(), named_errors(path, "describes no model"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _assemble(model: PreTrainedModel, state: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """Give a skeleton its weights, of which a tied one may have either name; uncopied if they may keep their types."""
    typed = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in state.items()}
    for name, source in model.all_tied_weights_keys.items():
        if source not in typed and name in typed:
            typed[source] = typed[name]
    tied = {name: typed[source] for name, source in model.all_tied_weights_keys.items()}
    model.load_state_dict({**typed, **tied}, strict=True, assign=True)
    model.tie_weights()


def _read_generation_config(model: PreTrainedModel, directory: Path) -> None:
    path = directory / GENERATION_JSON
    if is_regular_file(path):
        with named_errors(path):
            config = GenerationConfig.from_pretrained(directory)
        for name in ("bos_token_id", "eos_token_id"):
            token_ids(getattr(config, name, None), model.config.vocab_size, f"{path}: {name}")
        model.generation_config = config


def _ready(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """In eval mode, frozen, and known to hold finite numbers only."""
    for name, parameter in model.named_parameters():
        # NaN and Inf survive a sum, which needs no memory; a finite tensor whose sum overflows is looked at again.
        if not torch.isfinite(parameter.detach().sum()) and not torch.isfinite(parameter.detach()).all():
            what = "NaN" if torch.isnan(parameter.detach()).any() else "Inf"
            raise SharpError(f"{path}: tensor {name} holds {what}; copy or download it again, or train it again")
        page_out(parameter)
    return model.eval().requires_grad_(False)


@contextmanager
def prefixed(path: Path) -> Iterator[None]:
    """Put the file before a message that cannot know it."""
    try:
        yield
    except SharpError as error:
        raise SharpError(f"{path}: {error}") from error


@contextmanager
def named_errors(path: Path, what: str = "cannot be loaded") -> Iterator[None]:
    """Turn what transformers raises over a broken file, which is of many kinds, into one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise SharpError(f"{path}: {what}: {one_line(error)}; use the file that came with the weights") from error


@contextmanager
def quiet(progress: bool) -> Iterator[None]:
    """Without transformers' remarks while it loads (what matters is checked here), and its bars only if asked for."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not (progress and sys.stderr.isatty()):
        logging.disable_progress_bar()  # and the hub's
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
