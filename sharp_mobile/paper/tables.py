"""The paper's tables as data: for every row, its variant and the paper's numbers.

The numbers are from arXiv 2502.07832, Tables 2, 3, 4, 5 and 11: perplexity of Llama-2-7B, fine-tuned on GPUs, on the
paper's data sets. A number that the paper does not give is None. Additional rows are Basis Sharing and controls, which
use the same targets without sharing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sharp_mobile.paper.variants import Variant
from sharp_mobile.recipe.recovery import Form

PAPER_MODEL = "Llama-2-7B"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        method, type: the paper's first columns.
        variant: the variant that is built here.
        s: the paper's compression ratio as printed (τ in Table 4, which gives no s).
        paper: the paper's perplexities, in the order of the table's data sets.
    """

    method: str
    type: str
    variant: Variant
    s: str = ""
    paper: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper; `datasets` are its perplexity columns."""

    number: int
    title: str
    datasets: tuple[str, ...]
    rows: tuple[Row, ...]


ORIGINAL = Variant()
_DIRECT = Variant(plan="t_next")
_WARMED = Variant(plan="t_next", rank=400, warmup=True)
_TUNED = replace(_WARMED, finetune=1.0)
_MATH = ("Arxiv-math",)


def _controls(plan: str) -> Iterator[Row]:
    """The same targets without sharing: their MLPs dropped, or replaced by separate parameters."""
    yield Row("control: MLPs dropped, nothing shared", plan, Variant("drop", plan))
    yield from _own(plan)


def _own(plan: str) -> Iterator[Row]:
    """As many separate parameters as SHARP's recovery parameters, without sharing."""
    own = Variant(plan=plan, rank=400, reference=False, warmup=True)
    yield Row("control: own parameters, nothing shared (w/o f.t.)", plan, own)
    yield Row("control: own parameters, nothing shared", plan, replace(own, finetune=1.0))


def _typed(rows: tuple[Row, ...], plan: str, s: str, *papers: tuple[float | None, ...]) -> Iterator[Row]:
    for row, paper in zip(rows, papers, strict=True):
        yield Row(row.method, plan, replace(row.variant, plan=plan), s, paper)


_THREE = (Row("Direct Sharing", "", _DIRECT), Row("SHARP (w/o f.t.)", "", _WARMED), Row("SHARP", "", _TUNED))

TABLE_2 = Table(
    2,
    "methods and replacement types, rank 400",
    ("Arxiv-math", "DialogSum", "GPT4-Alpaca", "Dolly", "OpenOrca"),
    (
        Row("Original", "", ORIGINAL, "100%", (3.0, 3.7, 2.5, 3.6, 4.5)),
        Row("Direct Sharing", "t_next", _DIRECT, "62%", (2171.3, 801.7, 20662.1, 7221.7, 12108.5)),
        Row(
            "LayerPruning (w/o f.t.)",
            "t_ori",
            Variant("drop_t_ori", "t_next"),
            "62%",
            (87.6, 19.2, 86.1, 283.1, 102.2),
        ),
        Row(
            "LayerPruning",
            "t_ori",
            Variant("drop_t_ori", "t_next", rank=400, finetune=1.0),
            "62%",
            (4.1, 4.4, 4.0, 6.8, 5.6),
        ),
        Row("LayerPruning (w/o f.t.)", "t_next", Variant("drop", "t_next"), "62%", (28.3, 19.1, 583.0, 86.3, 336.7)),
        Row(
            "LayerPruning",
            "t_next",
            Variant("drop", "t_next", rank=400, finetune=1.0),
            "62%",
            (3.8, 4.3, 3.2, 5.8, 5.3),
        ),
        Row(
            "LLM-Pruner (w/o f.t.)",
            "",
            Variant("prune_channels", "t_next", rank=400),
            "62%",
            (14.7, 6.6, 6.8, 13.3, 16.1),
        ),
        Row(
            "LLM-Pruner",
            "",
            Variant("prune_channels", "t_next", rank=400, finetune=1.0),
            "62%",
            (11.2, 4.5, 4.1, 7.6, 7.7),
        ),
        Row("Basis Sharing (w/o f.t.)", "", Variant("share_bases", "t_next", rank=400)),
        Row("Basis Sharing", "", Variant("share_bases", "t_next", rank=400, finetune=1.0)),
        *_typed(_THREE[1:], "t_next", "62%", (4.8, 5.3, 4.2, 7.2, 8.4), (3.2, 3.8, 2.8, 4.7, 4.3)),
        *_own("t_next"),
        *_typed(
            _THREE,
            "t_back",
            "46%",
            (92603.9, 154262.4, 67908.4, 136787.2, 86993.3),
            (7.7, 7.6, 7.9, 13.7, 13.5),
            (3.5, 4.2, 3.2, 5.8, 4.9),
        ),
        *_controls("t_back"),
        *_typed(
            _THREE,
            "t_more",
            "35%",
            (318430.3, 143335.7, 346485.1, 280953.7, 300136.8),
            (26.6, 9.8, 11.3, 23.7, 21.8),
            (3.7, 4.4, 3.4, 6.4, 5.3),
        ),
        *_controls("t_more"),
    ),
)

# Rank, type and s of Table 3's columns, and its rows: the method, the variant and a number for each column. The table
# leaves one cell empty; its 73.7 is from the paper's text (3.3.3).
_SETTINGS_3 = (
    (5, "t_next", "56%"),
    (20, "t_next", "57%"),
    (400, "t_next", "62%"),
    (5, "t_back", "38%"),
    (20, "t_back", "38%"),
    (400, "t_back", "46%"),
    (400, "t_more", "35%"),
)
_ROWS_3: tuple[tuple[str, Variant, tuple[float | None, ...]], ...] = (
    ("Direct Sharing", _DIRECT, (2171.3, 2171.3, 2171.3, 92603.9, 92603.9, 92603.9, 318430.3)),
    ("SHARP (w/o f.t.)", _WARMED, (None, 9.5, 4.8, 73.7, 33.9, 7.7, 26.6)),
    ("SHARP (only SFT, 10%)", replace(_TUNED, warmup=False, finetune=0.1), (4.9, 5.0, 5.0, 6.2, 6.7, 8.6, 14.8)),
    ("SHARP (only SFT, 100%)", replace(_TUNED, warmup=False), (4.0, 4.0, 3.8, 4.5, 4.2, 3.6, 6.8)),
    ("SHARP (10%)", replace(_TUNED, finetune=0.1), (4.9, 4.9, 3.9, 6.0, 5.6, 4.2, 4.5)),
    ("SHARP (100%)", _TUNED, (4.1, 3.8, 3.2, 4.8, 4.2, 3.5, 3.7)),
)


def _rows_3() -> Iterator[Row]:
    yield Row("Original", "", ORIGINAL, "100%", (3.0,))
    for column, (rank, plan, s) in enumerate(_SETTINGS_3):
        for method, variant, paper in _ROWS_3:
            # Direct sharing has no rank, so all columns of a type use the same variant.
            used = replace(variant, plan=plan, rank=rank if variant.rank else 0)
            yield Row(method, plan, used, s, (paper[column],))
        if rank == 400:
            yield from _controls(plan)


TABLE_3 = Table(3, "ranks, types and amounts of fine-tuning", _MATH, tuple(_rows_3()))

_TYPES_4 = (
    ("t_next", "56%", (3.2, 3.8)),
    ("t_next2", "44%", (3.7, 4.2)),
    ("t_back", "38%", (3.5, 4.2)),
    ("t_front", "38%", (3.8, 4.4)),
    ("t_more", "25%", (3.7, 4.4)),
    ("t_max", "16%", (4.1, 4.9)),
)


def _rows_4() -> Iterator[Row]:
    yield Row("Original", "", ORIGINAL, "τ 100%", (3.0, 3.7))
    for plan, tau, paper in _TYPES_4:
        yield Row("SHARP (w/o f.t.)", plan, replace(_WARMED, plan=plan), f"τ {tau}")
        yield Row("SHARP", plan, replace(_TUNED, plan=plan), f"τ {tau}", paper)
        yield from _controls(plan)


TABLE_4 = Table(4, "replacement types, rank 400", ("Arxiv-math", "DialogSum"), tuple(_rows_4()))

_FORMS_5: tuple[tuple[str, Form, int, tuple[float, float]], ...] = (
    ("g0", "lora", 400, (4.8, 3.2)),
    ("g1", "right", 163, (5.5, 3.3)),
    ("g2", "left", 259, (4.8, 3.3)),
    ("g3", "hadamard", 200, (4.7, 3.3)),
)


def _rows_5() -> Iterator[Row]:
    yield Row("Original", "", ORIGINAL, "100%", (3.0,))
    for name, form, rank, (warmed, tuned) in _FORMS_5:
        label = f"{name} {form}, the paper's rank {rank}"
        yield Row(f"{label}: SHARP (w/o f.t.)", "t_next", replace(_WARMED, form=form), "62%", (warmed,))
        yield Row(f"{label}: SHARP", "t_next", replace(_TUNED, form=form), "62%", (tuned,))
    yield from _controls("t_next")


TABLE_5 = Table(5, "candidate transformations at equal numbers of parameters", _MATH, tuple(_rows_5()))

TABLE_11 = Table(
    11,
    "adapters on the targets or on every layer",
    ("Arxiv-math", "DialogSum", "Databricks-Dolly"),
    (
        Row("Original", "", ORIGINAL, "100%", (3.0, 3.7, 3.6)),
        Row("SHARP (w/o f.t.)", "t_next", _WARMED, "62%", (4.8, 5.3, 7.2)),
        Row("SHARP", "t_next", _TUNED, "62%", (3.2, 3.8, 4.7)),
        Row("SHARP Full-LoRA (w/o f.t.)", "t_next", replace(_WARMED, full_lora=True), "", (4.7, 5.3, 6.1)),
        Row("SHARP Full-LoRA", "t_next", replace(_TUNED, full_lora=True), "", (3.2, 3.8, 4.7)),
        *_controls("t_next"),
    ),
)

TABLES = {f"table{table.number}": table for table in (TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_11)}

# The paper's findings in its figures, which give no numbers.
FIGURES = {
    "fig2": "all but the first and the last replacements raise perplexity little; Arxiv-math 3.0 unchanged",
    "fig3": "adjacent layers' weights are far apart, although their MLPs can replace each other",
    "fig4": "layers 5 to 15 and the last two matter for all tasks; of 16 to 30 a few matter for knowledge, nearly all "
    "for reasoning; layer 1 is left out as critical",
}
