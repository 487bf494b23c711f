"""The measurements of a frontier as files: each is written as soon as it is complete.

    DIR/points/<key>.json      a recipe's export, measured
    DIR/original-<key>.json    the float original, and the order of its layers
    DIR/frontier.json          all of it, and what it shows

A key is a hash of all that a measurement depends on: the recipe, the settings of the measurement, the version of
sharp-mobile, and the model's configuration and weights. An interrupted run takes up the files that are there.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.recipe.settings import Recipe


class Data(BaseModel):
    """The common settings of the files."""

    # Perplexities can be infinite, and JSON has no number for infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


_D = TypeVar("_D", bound=Data)


class MeasurementSettings(Data):
    """What all points of a frontier are measured with.

    Attributes:
        text, window, windows: see `text.windows.source_windows`.
        profile: the emulated phone whose instructions are counted; None without.
        host: whether memory is measured in the host's runner, and not predicted.
    """

    text: str
    window: int
    windows: int
    profile: str | None
    host: bool


class Original(Data):
    """The float original: its perplexity, and the layers (0-based) that may be targets, in their order."""

    perplexity: float
    order: tuple[int, ...]


class Measurement(Data):
    """A recipe's export, measured through the `.pte`.

    Attributes:
        plan: written out; recipe: its settings.
        tokens: scored. kl: mean KL from the float original in nats a token. agreement: of the first choices. Both are
            None if the original has another vocabulary.
        file_bytes: of the `.pte`. resident_bytes: in memory after a forward pass of one token.
        instructions: of one token after a prompt of one, on one thread of the emulated phone; None if not counted.
        seconds: wall time to recover, export and measure it.
    """

    plan: str
    recipe: dict[str, object]
    perplexity: float
    tokens: int
    kl: float | None
    agreement: float | None
    file_bytes: int
    resident_bytes: int
    instructions: int | None
    seconds: float


class _Place(Data):
    """A place in a frontier.

    Attributes:
        size: the share of the unshared export's bytes that was asked for.
        finetuned: steps of distillation; 0 as fitted in closed form, and where there is nothing to train.
    """

    method: str
    size: float
    finetuned: int = 0

    @property
    def name(self) -> str:
        """The method, with its steps: "mlp +25"."""
        return f"{self.method} +{self.finetuned}" if self.finetuned else self.method


class Point(_Place):
    """A place with its measurement."""

    measured: Measurement


class Missing(_Place):
    """A place without a measurement. smallest: bytes of the smallest export of the method, if known."""

    smallest: int | None
    reason: str


class Frontier(Data):
    """All measurements of a frontier.

    Attributes:
        original: perplexity of the float model.
        unshared_bytes: predicted bytes of the unshared export, which sizes are shares of.
        beside: another model, unshared and quantized in the same way, under its name.
        findings: what the measurements show, a sentence each.
    """

    model: str
    fingerprint: str
    version: str
    settings: MeasurementSettings
    original: float
    unshared_bytes: int
    points: tuple[Point, ...]
    missing: tuple[Missing, ...]
    beside: tuple[Point, ...] = ()
    findings: tuple[str, ...] = ()


def point_key(recipe: Recipe, fingerprint: str, settings: MeasurementSettings, original: str) -> str:
    """The key of a recipe's measurement.

    Args:
        fingerprint: of the recipe's model, which may lie anywhere; original: that of the model to compare with.
    """
    content = recipe.model_dump(mode="json", exclude={"model"})
    return _key([content, settings.model_dump(), __version__, fingerprint, original])


def original_key(recipe: Recipe, fingerprint: str, settings: MeasurementSettings, ordered: bool) -> str:
    """The key of the original's measurements; `ordered` says whether its layers have an order."""
    warmup = recipe.warmup.model_dump(include={"text", "window", "windows"}) if ordered else None
    return _key([warmup, settings.model_dump(include={"text", "window", "windows"}), __version__, fingerprint])


def _key(content: list[object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_data(path: Path, kind: type[_D]) -> _D | None:
    """The measurements of a file, None if it is missing.

    Raises:
        SharpError: it is damaged.
    """
    if not os.path.lexists(path):
        return None
    remedy = "delete it to measure again"
    try:
        return kind.model_validate(parse_json(read_text(path), path, remedy=remedy))
    except ValidationError as error:
        raise SharpError(f"{path}: {first_problem(error)}; {remedy}") from error


def write_data(path: Path, data: Data) -> None:
    """Write measurements, complete or not at all.

    Raises:
        SharpError: they cannot be written.
    """
    replace_text(path, data.model_dump_json(indent=1) + "\n")
