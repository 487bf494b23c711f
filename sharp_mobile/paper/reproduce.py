"""The command `reproduce`: measure a table's variants one by one, and print them next to the paper's numbers.

    build/reproduce/<model>/variants.json     the variants measured so far, for all tables
    build/reproduce/<model>/table4.md         the table

Each variant starts from the checkpoint on disk, and all are measured on the same windows. An interrupted run continues
with the first missing variant. A variant that cannot be built is listed with the reason and without a number.
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
from sharp_mobile.paper.variants import RecoverySetup, Variant, build
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.source import Source
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.text.windows import read_text, token_windows

VARIANTS_JSON = "variants.json"


class _Data(BaseModel):
    # Perplexities can be infinite, and JSON has no number for infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Budget(_Data):
    """The settings of all variants of a run: the texts, the number of windows, and the two stages of recovery.

    Warm-ups with Adam follow the paper: on the original model's activations and unweighted.
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
        """The settings of Stage 1."""
        if self.warmup == "closed_form":
            return WarmupSettings()
        return WarmupSettings(method=self.warmup, inputs="original", weighted=False)

    @property
    def finetune_settings(self) -> FinetuneSettings:
        """The settings of Stage 2.

        Raises:
            SharpError: a value is out of range.
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
    """The measurement of a variant.

    Attributes:
        perplexity: on the budget's windows.
        recovery: the recovery parameters of a target on this model; empty without targets.
        mlp_kept, total_kept: s, and the same ratio over all parameters, counted on the model.
        seconds: wall time to build and measure it.
    """

    perplexity: float
    recovery: str
    mlp_kept: float
    total_kept: float
    seconds: float


class Measurements(_Data):
    """All measurements of one checkpoint with one budget, by `Variant.key`."""

    model: str
    fingerprint: str
    budget: Budget
    variants: dict[str, Measurement] = {}


@dataclass(frozen=True)
class Absent:
    """The reason why a variant has no measurement."""

    reason: str


Outcome = Measurement | Absent


def reproduce(table: Table, model: Source, out: Path, budget: Budget) -> Path:
    """Measure the variants of a table that `out` does not have yet; write the table there and print it.

    Raises:
        SharpError: the checkpoint or text is wrong, or `out` has measurements of another one.
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
    """Add the table's missing measurements to a file; return all of them, and the outcome of each variant."""
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
    """Run the study of Figure 2, 3 or 4 in `out` (see `paper.study`), and print it next to the paper's finding.

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
    """Opens the original model again for every variant, and reads the texts once."""

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
        self._means = RecoverySetup(calibration, budget.warmup_settings, training, budget.finetune_settings, runs)

    def _open(self) -> Checkpoint:
        return open_checkpoint(self._model)

    def empty(self) -> Measurements:
        return Measurements(model=self._name, fingerprint=self._fingerprint, budget=self._budget)

    def measure(self, variant: Variant) -> Outcome:
        started = time.monotonic()
        model = self._open().model
        try:
            parameters = build(variant, model, self._means)
        except SharpError as error:
            return Absent(str(error))
        with torch.no_grad():
            measured = perplexity(lambda tokens: model(tokens).logits, self._windows)
        return Measurement(
            perplexity=measured.value,
            recovery=_recovery(variant, model),
            mlp_kept=parameters.mlp,
            total_kept=parameters.total,
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
    """The measurements so far, or `empty`."""
    if not os.path.lexists(path):
        return empty
    try:
        earlier = Measurements.model_validate(parse_json(read_file(path), path))
    except (SharpError, ValueError) as error:
        raise SharpError(f"{path}: was not written by `reproduce`; move it away, or name another --out") from error
    here, there = ({**m.budget.model_dump(), "model": m.model, "checkpoint": m.fingerprint} for m in (empty, earlier))
    if different := [name for name, value in here.items() if there[name] != value]:
        raise SharpError(f"{path}: was made with another {', '.join(different)}; name another --out")
    return earlier


def _progress_line(row: Row, outcome: Outcome) -> str:
    if isinstance(outcome, Absent):
        return f"{_what(row)}: left out: {outcome.reason}"
    return f"{_what(row)}: perplexity {outcome.perplexity:.2f} ({outcome.seconds:.0f} s)"


def render(table: Table, measurements: Measurements, outcomes: dict[str, Outcome]) -> str:
    """The table as Markdown: the measured rows with the paper's numbers, and the reasons for the missing ones."""
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
        f"The columns from *s in the paper* on are for another model: {PAPER_MODEL}, perplexity on the paper's data.",
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
        f"fine-tuned on {budget.finetune_tokens:,} tokens of the same text, learning rate {budget.learning_rate:g}, "
        f"{budget.batch} windows per step, distillation {budget.distillation:g}"
    )


def _line(row: Row, measured: Measurement, datasets: int) -> str:
    paper = [_number(value) for value in row.paper] or [""] * datasets
    ours = [f"{measured.mlp_kept:.0%}", f"**{_number(measured.perplexity)}**"]
    return f"| {' | '.join([row.method, row.type, measured.recovery, *ours, row.s, *paper])} |"


def _what(row: Row) -> str:
    return f"{row.method} {row.type}".strip()


def _of_rank(row: Row) -> str:
    return f" (the paper's rank {row.variant.rank})" if row.variant.rank else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
