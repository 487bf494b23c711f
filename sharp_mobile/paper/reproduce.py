"""The verb `reproduce`: measure a table's variants one by one, and print them beside the paper's numbers.

    build/reproduce/<model>/variants.json     every variant measured so far, whichever tables it stands in
    build/reproduce/<model>/table4.md         the table

Each variant starts from the checkpoint as it is on disk, and all are measured on the same windows. A run that was
interrupted goes on with the first variant that is missing. A variant that cannot be made is listed with the reason;
no number is ever printed for it.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.files.json_file import parse_json
from sharp_mobile.files.json_file import read_text as read_file
from sharp_mobile.files.locks import only_user
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.files.printable import markdown
from sharp_mobile.paper.studies import Pairs
from sharp_mobile.paper.study import study
from sharp_mobile.paper.tables import FIGURES, PAPER_MODEL, Row, Table
from sharp_mobile.paper.variants import Means, Variant, build
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.source import Source
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.text.windows import read_text, token_windows

VARIANTS_JSON = "variants.json"


class _Data(BaseModel):
    # Perplexities can be infinite, which JSON has no number for.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Budget(_Data):
    """What every variant of a run gets: the texts, how much of them, and how the two stages are done.

    The warm-ups with Adam are done as the paper does them, on the original model's activations and unweighted.
    """

    text: str
    window: int
    windows: int
    calibration_text: str
    calibration_windows: int
    finetune_tokens: int = 0
    warmup: Literal["closed_form", "adam", "closed_form_adam"] = "closed_form"
    learning_rate: float = 2e-5
    distillation: float = 0.0
    batch: int = 8

    @property
    def warmup_settings(self) -> WarmupSettings:
        """Stage 1."""
        if self.warmup == "closed_form":
            return WarmupSettings()
        return WarmupSettings(method=self.warmup, inputs="original", weighted=False)

    @property
    def finetune_settings(self) -> FinetuneSettings:
        """Stage 2.

        Raises:
            SharpError: a value out of its range.
        """
        try:
            return FinetuneSettings(
                epochs=1,
                learning_rate=self.learning_rate,
                distillation=self.distillation,
                batch_size=self.batch,
            )
        except ValidationError as error:
            raise SharpError(first_problem(error, "finetune")) from error


class Measurement(_Data):
    """What a variant came to.

    Attributes:
        perplexity: on the budget's windows.
        recovery: the recovery parameters of a target on this model; empty where there are no targets.
        mlp_kept, total_kept: s, and the same over all parameters, counted on the model.
        seconds: wall time of making it and of measuring it.
    """

    perplexity: float
    recovery: str
    mlp_kept: float
    total_kept: float
    seconds: float


class Measurements(_Data):
    """All that was measured with one checkpoint and one budget, by `Variant.key`."""

    model: str
    fingerprint: str
    budget: Budget
    variants: dict[str, Measurement] = {}


@dataclass(frozen=True)
class Absent:
    """A variant without a measurement, and why."""

    reason: str


Outcome = Measurement | Absent


def reproduce(table: Table, model: Source, out: Path, budget: Budget) -> Path:
    """Measure the variants of a table that are not in `out` yet; write the table there, and print it.

    Raises:
        SharpError: a wrong checkpoint or text, or measurements in `out` that were made with another one.
    """
    source = _Source(model, budget, out / "runs")
    path = out / VARIANTS_JSON
    with only_user(path):
        measurements, outcomes = _measured(table, source, path)
    written = out / f"table{table.number}.md"
    text = render(table, measurements, outcomes)
    replace_text(written, text)
    say(f"\n{text}")
    return written


def _measured(table: Table, source: "_Source", path: Path) -> tuple[Measurements, dict[str, Outcome]]:
    """The measurements in a file, with those of the table added, and the outcome of each variant."""
    measurements = _read(path, source.empty())
    outcomes: dict[str, Outcome] = {}
    for row in table.rows:
        key = row.variant.key
        if key in outcomes:
            continue
        if key not in measurements.variants:
            outcome = source.measure(row.variant)
            if isinstance(outcome, Measurement):
                variants = {**measurements.variants, key: outcome}
                measurements = measurements.model_copy(update={"variants": variants})
                replace_text(path, measurements.model_dump_json(indent=1) + "\n")
            say(_progress_line(row, outcome))
        else:
            outcome = measurements.variants[key]
        outcomes[key] = outcome
    return measurements, outcomes


def reproduce_figure(figure: str, model: Source, out: Path, budget: Budget, pairs: Pairs) -> None:
    """Make the study of Figure 2, 3 or 4 in `out` (see `paper.study`), and print it beside the paper's finding.

    Raises:
        SharpError: as `study`.
    """
    for line in study(
        figure,
        model,
        out,
        text=budget.text,
        window=budget.window,
        count=budget.windows,
        pairs=pairs,
    ):
        say(line)
    say(f"the paper, of {PAPER_MODEL}: {FIGURES[figure]}")


class _Source:
    """Opens the original model anew for every variant, and reads the texts once."""

    def __init__(self, model: Source, budget: Budget, runs: Path) -> None:
        self._model, self._budget = model, budget
        checkpoint = self._open()
        if checkpoint.plan is not None:
            raise SharpError(f"{model}: already shares layers; the tables start from the original model")
        tokenizer = checkpoint.tokenizer_for("reproduce")
        self._name, self._fingerprint = checkpoint.name, checkpoint.fingerprint
        self._windows = _windows(tokenizer, budget.text, budget.window, budget.windows)
        calibration = _windows(tokenizer, budget.calibration_text, budget.window, budget.calibration_windows)
        training = _windows(tokenizer, budget.calibration_text, budget.window, budget.finetune_tokens // budget.window)
        self._means = Means(calibration, budget.warmup_settings, training, budget.finetune_settings, runs)

    def _open(self) -> Checkpoint:
        return open_checkpoint(self._model)

    def empty(self) -> Measurements:
        return Measurements(model=self._name, fingerprint=self._fingerprint, budget=self._budget)

    def measure(self, variant: Variant) -> Outcome:
        started = time.monotonic()
        model = self._open().model
        try:
            kept = build(variant, model, self._means)
        except SharpError as error:
            return Absent(str(error))
        with torch.no_grad():
            measured = perplexity(lambda tokens: model(tokens).logits, self._windows)
        return Measurement(
            perplexity=measured.value,
            recovery=_recovery(variant, model),
            mlp_kept=kept.mlp,
            total_kept=kept.total,
            seconds=time.monotonic() - started,
        )


def _recovery(variant: Variant, model: PreTrainedModel) -> str:
    if variant.method != "share" or variant.plan == "none":
        return ""
    own = str(variant.recovery(model.config.hidden_size, model.config.intermediate_size))
    return f"{own}, on every layer" if variant.full_lora else own


def _windows(tokenizer: PreTrainedTokenizerBase, text: str, window: int, count: int) -> torch.Tensor:
    if count == 0:
        return torch.empty(0, window, dtype=torch.long)
    return token_windows(tokenizer, read_text(text), window, count)


def _read(path: Path, empty: Measurements) -> Measurements:
    """The measurements so far, or none."""
    if not os.path.lexists(path):
        return empty
    try:
        found = Measurements.model_validate(parse_json(read_file(path), path))
    except (SharpError, ValueError) as error:
        raise SharpError(f"{path}: is not what `reproduce` writes; move it away, or name another --out") from error
    here, there = ({**m.budget.model_dump(), "model": m.model, "checkpoint": m.fingerprint} for m in (empty, found))
    if different := [name for name, value in here.items() if there[name] != value]:
        raise SharpError(f"{path}: was made with another {', '.join(different)}; name another --out")
    return found


def _progress_line(row: Row, outcome: Outcome) -> str:
    if isinstance(outcome, Absent):
        return f"{_what(row)}: left out: {outcome.reason}"
    return f"{_what(row)}: perplexity {outcome.perplexity:.2f} ({outcome.seconds:.0f} s)"


def render(table: Table, measurements: Measurements, outcomes: dict[str, Outcome]) -> str:
    """The table as Markdown: the measured rows, the paper's numbers beside them, and what is left out and why."""
    budget = measurements.budget
    head = ["method", "type", "recovery parameters", "s", "perplexity", "s in the paper", *table.datasets]
    lines = [
        f"# Table {table.number} in shape: {table.title}",
        "",
        f"Measured here: {markdown(measurements.model)} on {markdown(budget.text)}, "
        f"{budget.windows} windows of {budget.window} tokens; warm-up ({budget.warmup}) and calibration on "
        f"{budget.calibration_windows} windows of {markdown(budget.calibration_text)}; {_stage_2(budget)}. "
        "s is counted on the model.",
        "",
        f"The columns from *s in the paper* on are another model's: {PAPER_MODEL}, perplexity on the paper's own data.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * 3}{'---:|' * (len(head) - 3)}",
    ]
    absent = []
    for row in table.rows:
        outcome = outcomes[row.variant.key]
        if isinstance(outcome, Absent):
            absent.append((row, outcome))
        else:
            lines.append(_line(row, outcome, len(table.datasets)))
    if absent:
        lines += ["", "Not measured:", ""]
        lines += [f"- {_what(row)}{_of_rank(row)}: {markdown(why.reason)}" for row, why in absent]
    return "\n".join(lines) + "\n"


def _stage_2(budget: Budget) -> str:
    if not budget.finetune_tokens:
        return "not fine-tuned"
    return (
        f"fine-tuned on {budget.finetune_tokens:,} tokens of the same, learning rate {budget.learning_rate:g}, "
        f"{budget.batch} windows a step, distillation {budget.distillation:g}"
    )


def _line(row: Row, found: Measurement, datasets: int) -> str:
    paper = [_number(value) for value in row.paper] or [""] * datasets
    ours = [f"{found.mlp_kept:.0%}", f"**{_number(found.perplexity)}**"]
    return f"| {' | '.join([row.method, row.type, found.recovery, *ours, row.s, *paper])} |"


def _what(row: Row) -> str:
    return f"{row.method} {row.type}".strip()


def _of_rank(row: Row) -> str:
    return f" (the paper's rank {row.variant.rank})" if row.variant.rank else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
