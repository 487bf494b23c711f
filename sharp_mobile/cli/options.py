"""Options that commands share, and functions that print results."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import click

from sharp_mobile.console import without_bars
from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import printable
from sharp_mobile.recipe.load import load_recipe
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.share import KINDS, is_mixture
from sharp_mobile.recipe.source import RANDOM

Command = Callable[..., None]

PLAN = "none, a preset (t_next, t_back, recursive 2, …), or '3:4, 16:17-22' (reference:targets)."


@dataclass(frozen=True)
class Model:
    """MODEL and the options that override its recipe.

    Attributes:
        argument: MODEL as the user wrote it.
        plan, share: the values of --plan and --share, if given.
        random: whether --random-weights was given.
    """

    argument: str
    plan: str | None
    share: str | None
    rank: int | None
    settings: tuple[str, ...]
    allow_pickle: bool
    random: bool

    def recipe(self, plan: str | None = None) -> Recipe:
        """Load the recipe with these overrides; `plan` overrides --plan, and a mixture the recipe's plan.

        Raises:
            SharpError: there is no such model or recipe, or a setting is wrong.
        """
        plan = plan or self.plan or ("none" if self.share and is_mixture(self.share) else None)
        overrides: dict[str, object] = {"plan": plan, "share": self.share, "rank": self.rank}
        for setting in self.settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise SharpError(f"--set {setting}: write NAME=VALUE, such as quantize.group_size=64")
            overrides[name] = int(value) if re.fullmatch(r"[0-9]{1,18}", value) else value
        recipe = load_recipe(self.argument, **overrides)
        return recipe.allowing_pickle() if self.allow_pickle else recipe


def model_options(command: Command) -> Command:
    """Pass MODEL, --share, --rank and --set to a command as one `Model`, with --plan, --allow-pickle and others."""

    @click.argument("model", default="smollm2-135m", required=False)
    @click.option(
        "--share",
        metavar="KIND",
        help=f"What of the plan's layers is shared: {', '.join(KINDS)}; or a mixture, 'attention 3:4; kv 7:8'.",
    )
    @click.option("--rank", type=int, help="Rank of the recovery parameters; 0 for none.")
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other setting of the recipe, such as quantize.group_size=64 or warmup.text=notes.txt. The section "
        "can be omitted if only one has that name: lm_head=4, max_length=512.",
    )
    @wraps(command)
    def with_model(
        model: str,
        share: str | None,
        rank: int | None,
        settings: tuple[str, ...],
        plan: str | None = None,
        allow_pickle: bool = False,
        random_weights: Path | None = None,
        **options: object,
    ) -> None:
        argument = model if random_weights is None else f"{RANDOM}{random_weights}"
        command(model=Model(argument, plan, share, rank, settings, allow_pickle, random_weights is not None), **options)

    return with_model


plan_option = click.option("--plan", help=PLAN)
pickle_option = click.option("--allow-pickle", is_flag=True, help="Load .bin checkpoints. A pickle can run any code.")
random_weights_option = click.option(
    "--random-weights",
    type=Path,
    metavar="CONFIG",
    help="As MODEL, take an architecture with random weights: a config.json, or the name of a shipped one.",
)


def _without_bars(context: click.Context, parameter: click.Parameter, quiet: bool) -> None:
    if quiet:
        context.with_resource(without_bars())


quiet_option = click.option(
    "--quiet", is_flag=True, expose_value=False, callback=_without_bars, help="No progress bars."
)


def show(lines: Iterable[str]) -> None:
    """Print lines; a line break in a name is escaped."""
    for line in lines:
        click.echo(printable(line))


def show_json(data: object) -> None:
    """Print JSON in ASCII: JSON readers decode its escapes."""
    click.echo(json.dumps(data, indent=1).replace("\x7f", "\\u007f"))
