"""Where a source lies: a packaged model, a directory or file of this machine, or a download from the hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from sharp_mobile.checkpoint.config import CONFIG_JSON, GENERATION_JSON
from sharp_mobile.checkpoint.other_formats import TELLING_FILES
from sharp_mobile.checkpoint.tokenizer_files import TOKENIZER_PATTERNS
from sharp_mobile.console import shows_bars
from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.files.packaged import PACKAGED_MODELS, packaged_model
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.recipe.sharp_json import SHARP_JSON
from sharp_mobile.recipe.source import Source

# What is downloaded of a repository of the hub: what is read, and the small files that tell what it is if it is no
# model. (`*` matches a slash, too; `_HUB_UNREAD` leaves out folders and the variants that diffusers knows.)
HUB_DESCRIPTION = (CONFIG_JSON, GENERATION_JSON, SHARP_JSON, *TELLING_FILES, *TOKENIZER_PATTERNS)
HUB_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
HUB_PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_HUB_UNREAD = ["*/*.safetensors", "*/*.bin", "*/*.json", "*.fp16*", "*.bf16*", "*.int8*", "*.non_ema*"]


def locate(source: Source, wanted: Sequence[str], fallback: Sequence[str] = ()) -> Path:
    """The directory or GGUF file behind a source; of a hub repository the `wanted` files are downloaded.

    Args:
        wanted: patterns of names in a repository of the hub.
        fallback: patterns to download as well if the repository has no safetensors among the wanted.

    Raises:
        SharpError: nothing is there, or something that is no directory and no .gguf file.
    """
    if source.kind == "packaged":
        return packaged_model(source.text)
    path = _local(source.text)
    if path is not None:
        return path
    if source.kind == "hub":
        directory = _download(source.text, wanted)
        if fallback and not any(directory.glob("*.safetensors")):
            directory = _download(source.text, [*wanted, *fallback])
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


@contextmanager
def quiet_hub() -> Iterator[None]:
    """With the bars of the hub's downloads only if bars are asked for."""
    shown = not are_progress_bars_disabled()
    if not shows_bars():
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
