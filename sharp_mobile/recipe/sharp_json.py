"""sharp.json: what makes a directory a SHARP checkpoint, and how recovery parameters are written down by layer."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sharp_mobile import __version__
from sharp_mobile.console import warn
from sharp_mobile.errors import SharpError, first_problem, prefixed
from sharp_mobile.files.digests import remembered_sha256
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.paths import inside, is_regular_file
from sharp_mobile.recipe.plan import SharePlan, layer_ranges, parse_layers
from sharp_mobile.recipe.recovery import Recoveries, Recovery

SHARP_JSON = "sharp.json"
# 2 since layers share more than MLPs; what shares MLPs alone is still written as 1.
FORMAT_VERSION = 2

_RECOVERY = TypeAdapter(Recovery)


class SharpDescription(BaseModel):
    """sharp.json: what makes a directory a SHARP checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: int
    plan: str
    layers: int
    recovery: dict[str, dict[str, object]]  # "4,6,14-19" (1-based) -> the fields of their `Recovery`
    produced_by: dict[str, object] = {}
    report: dict[str, object] = {}
    files: dict[str, str] = {}  # name -> SHA-256 of the files next to it

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its report warns of; nothing where the report has another form."""
        found = self.report.get("warnings")
        return tuple(str(warning) for warning in found) if isinstance(found, list) else ()

    @property
    def recovered_in_float(self) -> bool:
        """Whether it says that recovery saw no quantization, so that weights may be rounded in any way.

        What was recovered for weights that are rounded to the nearest must not meet others.
        """
        return self.produced_by.get("quantization_aware") is False

    @classmethod
    def read(cls, path: Path) -> "SharpDescription":
        """Read sharp.json.

        Raises:
            SharpError: it is of a newer version, or is not what this class writes.
        """
        content = read_json(path)
        version = content.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise SharpError(
                f"{path}: format_version {version} is newer than {FORMAT_VERSION}, the newest that this sharp-mobile "
                f"({__version__}) reads; update it"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise SharpError(f"{path}: {first_problem(error)}; write the checkpoint again") from error


def damaged_files(directory: Path, *only: str) -> list[str]:
    """The files of a SHARP checkpoint that are not as they were written, or not there; of `only`, if any are named.

    Raises:
        SharpError: sharp.json cannot be read, or a file cannot.
    """
    path = directory / SHARP_JSON
    damaged = []
    files = SharpDescription.read(path).files
    for name, digest in files.items():
        if only and name not in only:
            continue
        file = inside(directory, name, path, links_out=True)
        if not is_regular_file(file) or remembered_sha256(file) != digest:
            damaged.append(name)
    return damaged


def check_undamaged(directory: Path, *names: str) -> None:
    """Refuse a SHARP checkpoint of which one of these files is not as it was written.

    Raises:
        SharpError: one is not, or not there.
    """
    if damaged := damaged_files(directory, *names):
        raise SharpError(
            f"{directory / damaged[0]}: does not match {SHARP_JSON} (SHA-256); copy the checkpoint "
            "again, or recover it again"
        )


def is_whole(directory: Path) -> bool:
    """Whether a SHARP checkpoint is there as it was written; damage is reported as a warning."""
    if not (directory / SHARP_JSON).is_file():
        return False
    try:
        damaged = damaged_files(directory)
    except SharpError:
        damaged = [SHARP_JSON]
    if damaged:
        warn(f"{directory / damaged[0]} is damaged (another SHA-256); recovering again")
    return not damaged


def describe_recoveries(recovery: Recoveries) -> dict[str, dict[str, object]]:
    """What layers have instead of their own weights: alike ones under one name such as "4,6,14-19" (1-based)."""
    layers_of: dict[Recovery, list[int]] = {}
    for layer, own in sorted(recovery.items()):
        layers_of.setdefault(own, []).append(layer)
    return {layer_ranges(tuple(layers)): _described(own) for own, layers in layers_of.items()}


def format_version(recovery: Recoveries) -> int:
    """The oldest version that can say what these layers have."""
    return FORMAT_VERSION if any(own.beyond_mlp or own.dropped for own in recovery.values()) else 1


def _described(own: Recovery) -> dict[str, object]:
    """The fields, layers 1-based; attention and bases only where there are any."""
    fields: dict[str, object] = asdict(own)
    del fields["attention"], fields["basis"]
    if attention := own.attention:
        reference = None if attention.reference is None else attention.reference + 1
        fields["attention"] = {**asdict(attention), "reference": reference}
    if basis := own.basis:
        fields["basis"] = {"first": basis.first + 1, "ranks": list(basis.ranks)}
    return fields


def _read(fields: object, names: str) -> Recovery:
    """What `_described` wrote."""
    try:
        written = _RECOVERY.validate_python(fields)
    except ValidationError as error:
        raise SharpError(f"recovery of layers {first_problem(error, names)}") from error
    attention, basis = written.attention, written.basis
    if attention is not None and attention.reference is not None:
        attention = replace(attention, reference=attention.reference - 1)
    return replace(written, attention=attention, basis=None if basis is None else replace(basis, first=basis.first - 1))


def read_recoveries(described: Mapping[str, object], layers: int) -> dict[int, Recovery]:
    """What `describe_recoveries` wrote, for a model of `layers` layers.

    Raises:
        SharpError: layers or fields that do not exist, or values that make no `Recovery`.
    """
    found: dict[int, Recovery] = {}
    for names, fields in described.items():
        recovery = _read(fields, names)
        for layer in parse_layers(names, layers):
            if layer in found:
                raise SharpError(f"recovery: layer {layer + 1} is named twice")
            found[layer] = recovery
    return dict(sorted(found.items()))


def read_sharing(path: Path, layers: int) -> tuple[SharePlan, Recoveries]:
    """The plan and the recovery parameters that a sharp.json gives a model of so many layers.

    Raises:
        SharpError: sharp.json is broken, or is for another number of layers.
    """
    description = SharpDescription.read(path)
    if description.layers != layers:
        raise SharpError(f"{path}: share plan: it is for {description.layers} layers and the model has {layers}")
    with prefixed(path):
        plan = SharePlan.parse(description.plan, description.layers)
        return plan, read_recoveries(description.recovery, description.layers)
