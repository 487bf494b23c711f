"""What the sections of a recipe have in common: their base class, and fields that also read text.

Options of a command line come as text, and YAML takes `1e-3` for text (it wants `1.0e-3`).
"""

import re
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """Settings that belong together: frozen, with a default for every field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def changed(self) -> tuple[str, ...]:
        """The fields that were set, and to something else than their default."""
        fields = type(self).model_fields
        return tuple(
            name
            for name, field in fields.items()
            if name in self.model_fields_set and getattr(self, name) != field.default
        )


def whole_number(value: object) -> object:
    """Digits as a number; everything else as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value) else value


def _decimal(value: object) -> object:
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return value


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


Float = Annotated[float, BeforeValidator(_decimal)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Bits = Annotated[Literal[4, 8, "float"], BeforeValidator(whole_number)]
GroupSize = Annotated[Literal[32, 64, 128], BeforeValidator(whole_number)]
