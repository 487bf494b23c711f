"""What a plan that is `auto` may keep.

auto s=0.62      at most this part of the MLPs' parameters, recovery parameters included (paper, Eq. 1)
auto tau=0.57    at most this part of the layers keep their MLP; the recovery parameters are the recipe's own
auto 60MB        at most so many bytes of MLPs and recovery parameters, as the recipe quantizes them
auto 60MB resident    the same with the KV cache, which attention that is shared can do without

With `share: layer`, attention is chosen too, and counts.
"""

import re
from dataclasses import dataclass
from typing import Literal

from sharp_mobile.errors import SharpError

_BUDGET = re.compile(
    r"auto\s+(?:(s|tau)\s*=\s*(0?\.\d+|1(?:\.0*)?)|(\d+(?:\.\d+)?)\s*(MB|GB|kB)(\s+resident)?)", re.IGNORECASE
)
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9}


@dataclass(frozen=True)
class PlanBudget:
    """What may be kept: a part of the parameters (`s`) or of the layers (`tau`), or bytes in the file or in memory."""

    kind: Literal["s", "tau", "bytes", "resident"]
    amount: float

    @classmethod
    def parse(cls, text: str) -> "PlanBudget":
        """Read the plan's text.

        Raises:
            SharpError: it names no budget.
        """
        match = _BUDGET.fullmatch(text.strip())
        if match is None:
            raise SharpError(f"plan '{text}': name a budget, such as 'auto s=0.62', 'auto tau=0.57' or 'auto 60MB'")
        if match[1]:
            return cls("s" if match[1].lower() == "s" else "tau", float(match[2]))
        return cls("resident" if match[5] else "bytes", float(match[3]) * _UNITS[match[4].lower()])


def is_auto(plan: str) -> bool:
    """Whether a recipe's plan is to be chosen."""
    return plan.strip().lower().startswith("auto")
