"""The command `frontier`: measure a model by each method at each size, and say which method wins where.

    open the original ─► its logits, the order of its layers
    size of the unshared export ─► for each method and size the recipe of that size; and the same recipe, fine-tuned
    each recipe that DIR/points lacks ─► export, measure, write ─► table, picture, JSON

An interrupted run continues with the first missing point.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product, zip_longest
from pathlib import Path

import torch

from sharp_mobile import __version__
from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.console import say, warn
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.divergence import OriginalLogits
from sharp_mobile.evaluate.step import ModelStep
from sharp_mobile.files.locks import only_user
from sharp_mobile.files.outputs import check_file, replace_file
from sharp_mobile.model.planned import ModelDescription, plan_model
from sharp_mobile.paper.baselines.layer_pruning import angular_distances
from sharp_mobile.paper.frontier.measure import PROFILE, Bench, Tools, find_tools, measured_recipe
from sharp_mobile.paper.frontier.methods import (
    METHODS,
    UNSHARED,
    Found,
    Method,
    Subject,
    TooLarge,
    changed,
    chosen_methods,
)
from sharp_mobile.paper.frontier.picture import draw
from sharp_mobile.paper.frontier.points import (
    Frontier,
    Measurement,
    MeasurementSettings,
    Missing,
    Original,
    Point,
    original_key,
    point_key,
    read_data,
    write_data,
)
from sharp_mobile.paper.frontier.words import findings
from sharp_mobile.pte.runtime import whole_window
from sharp_mobile.recipe.plan_budget import is_auto
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.warmup.layer_activations import find_sink_layers
from sharp_mobile.text.windows import check_length, source_windows

FRONTIER_JSON = "frontier.json"
_WINDOW = 512
_FINETUNE_LENGTH = 512
_DISTILLATION = 1.0  # the original teaches


@dataclass(frozen=True)
class FrontierOptions:
    """What is measured.

    Attributes:
        methods: names in `METHODS`; sizes: shares of the unshared export's bytes.
        text, windows: see `text.windows.source_windows`. window: tokens; 512 or the model's limit by default.
        beside: the recipe of another model of the same tokenizer.
        finetune: measure every recipe that has recovery parameters once more, after so many steps of distillation.
        quick: neither the C++ runner nor the emulated phone: memory is predicted, instructions are not counted.
        keep: whether exports and recovered models stay in the directory.
    """

    methods: Sequence[str] = tuple(METHODS)
    sizes: Sequence[float] = (0.95, 0.9, 0.85, 0.8)
    text: str = "sotu:2012-2026"
    window: int | None = None
    windows: int = 12
    beside: Recipe | None = None
    finetune: int = 0
    quick: bool = False
    keep: bool = False


def frontier(recipe: Recipe, out: Path, options: FrontierOptions) -> Frontier:
    """Measure the frontier of a recipe's model in the directory `out`; points that it has are not measured again.

    The recipe's settings apply to all methods, but its plan, its share and its layers' own recovery.

    Raises:
        SharpError: a method or size that does not exist, a model that already shares or has no tokenizer, another
            tokenizer beside it, a directory that cannot be written, or an unshared export that fails.
    """
    methods, sizes = chosen_methods(options.methods), _sizes(options.sizes)
    _check_counts(options)
    check_file(out / FRONTIER_JSON, field="unshared_bytes")
    with only_user(out / FRONTIER_JSON):
        tools = Tools() if options.quick else find_tools()
        for line in tools.lacking:
            warn(line)
        run = _prepared(recipe, methods, sizes, out, options, tools)
        points, missing = _measured(run, run.requests)
        beside, failed = _measured(run, run.beside)
        found = Frontier(
            model=run.subject.description.name,
            fingerprint=run.fingerprint,
            version=__version__,
            settings=run.settings,
            original=run.original.perplexity,
            unshared_bytes=run.unshared_bytes,
            points=points,
            missing=(*missing, *failed),
            beside=beside,
        )
        found = found.model_copy(update={"findings": tuple(findings(found))})
        write_data(out / FRONTIER_JSON, found)
        draw(found, out / FRONTIER_JSON)
        for logits in out.glob("original-*.logits"):  # and those of interrupted runs with other settings
            logits.unlink(missing_ok=True)
    return found


@dataclass(frozen=True)
class _Request:
    """A method at a size, the recipe for it, and the model that it is for."""

    method: str
    size: float
    found: Found | TooLarge
    description: ModelDescription
    key: str
    finetuned: int = 0  # steps
    comparable: bool = True  # whether the model has the original's vocabulary

    @property
    def name(self) -> str:
        return f"{self.method} at {self.size:.0%}" + (f" after {self.finetuned} steps" if self.finetuned else "")

    def lacks(self, reason: str, smallest: int | None = None) -> Missing:
        return Missing(method=self.method, size=self.size, finetuned=self.finetuned, smallest=smallest, reason=reason)


@dataclass(frozen=True)
class _Run:
    """All that is known before the first point is measured; no weights.

    Attributes:
        unshared_bytes: predicted bytes of the unshared export.
        logits: the file of the original's logits; there if a point is missing.
    """

    subject: Subject
    fingerprint: str
    settings: MeasurementSettings
    original: Original
    unshared_bytes: int
    windows: torch.Tensor
    logits: Path
    tools: Tools
    out: Path
    keep: bool
    requests: tuple[_Request, ...]
    beside: tuple[_Request, ...]


def _sizes(sizes: Sequence[float]) -> list[float]:
    if not sizes:
        raise SharpError("--sizes: is empty; give shares of the unshared export's bytes, such as 0.9,0.8")
    for size in sizes:
        if not 0 < size < 1:
            raise SharpError(f"--sizes {size:g}: is not a share of the unshared export's bytes between 0 and 1")
    return sorted(set(sizes), reverse=True)


def _check_counts(options: FrontierOptions) -> None:
    if options.window is not None and options.window < 2:
        raise SharpError(f"--window {options.window}: leaves no token to predict; use 2 or more")
    if options.windows < 1:
        raise SharpError(f"--windows {options.windows}: measure on 1 window or more")
    if options.finetune < 0:
        raise SharpError(f"--finetune {options.finetune}: is negative; use 0 for none")


def _base(recipe: Recipe) -> Recipe:
    """What all methods have in common."""
    if recipe.plan != "none" or recipe.recovery.layers:
        say(f"frontier: the recipe's plan '{recipe.plan}' and its layers' own recovery are left out; methods plan")
    return changed(
        recipe,
        {"plan": "none", "share": "mlp", "recovery.layers": {}, "finetune.max_steps": 0, "finetune.epochs": 0.0},
    )


def _finetuned(recipe: Recipe, steps: int) -> Recipe:
    """A recipe with so many steps of distillation, in the recipe's own settings where it has any."""
    own = recipe.finetune.model_fields_set
    changes: dict[str, object] = {"finetune.max_steps": steps}
    changes |= {} if "distillation" in own else {"finetune.distillation": _DISTILLATION}
    changes |= {} if "length" in own else {"finetune.length": _FINETUNE_LENGTH}
    return changed(recipe, changes)


def _prepared(
    recipe: Recipe, methods: Sequence[Method], sizes: Sequence[float], out: Path, options: FrontierOptions, tools: Tools
) -> _Run:
    """Open the models, find the recipe of every point, and measure the float original if a point needs it."""
    checkpoint = open_checkpoint(recipe.model)
    recipe = _base(recipe)
    if checkpoint.plan is not None:
        raise SharpError(f"{checkpoint.path}: already shares layers; a frontier starts from the original model")
    architecture = checkpoint.architecture
    window = options.window or min(_WINDOW, architecture.positions - 1)
    check_length(window, checkpoint.config)
    windows = source_windows(checkpoint.tokenizer_for("frontier"), options.text, window, options.windows)
    recipe = measured_recipe(recipe.fitted_to(architecture), window, architecture.positions, tools)
    recipe.check_exportable()
    settings = MeasurementSettings(
        text=options.text,
        window=window,
        windows=options.windows,
        profile=PROFILE if tools.emulator else None,
        host=tools.runner is not None,
    )
    subject = Subject(recipe, checkpoint.description)
    unshared_bytes = subject.bytes_of(recipe)  # refuses widths and lengths that do not fit
    of_beside = () if options.beside is None else (_beside(options, checkpoint, windows, settings, tools),)

    ordered = any(method.ordered for method in methods)
    key = original_key(recipe, checkpoint.fingerprint, settings, ordered)
    path, logits = out / f"original-{key}.json", out / f"original-{key}.logits"
    original = read_data(path, Original)
    if original is None:
        perplexity = _measure_original(checkpoint, windows, logits)
        order = _order(checkpoint, recipe) if ordered else ()
        original = Original(perplexity=perplexity, order=order)
        write_data(path, original)
    subject = replace(subject, order=original.order)

    def request(method: str, size: float, found: Found | TooLarge, finetuned: int = 0) -> _Request:
        key = point_key(found.recipe, checkpoint.fingerprint, settings, "") if isinstance(found, Found) else ""
        return _Request(method, size, found, subject.description, key, finetuned)

    requests = [request(UNSHARED, 1.0, Found(recipe, unshared_bytes))]
    for size, method in product(sizes, methods):
        found = method.find(subject, int(size * unshared_bytes))
        requests.append(request(method.name, size, found))
        if options.finetune and isinstance(found, Found) and _learns(found.recipe, subject.description):
            tuned = replace(found, recipe=_finetuned(found.recipe, options.finetune))
            requests.append(request(method.name, size, tuned, options.finetune))
    run = _Run(
        subject,
        checkpoint.fingerprint,
        settings,
        original,
        unshared_bytes,
        windows,
        logits,
        tools,
        out,
        options.keep,
        tuple(requests),
        of_beside,
    )
    lacking = [r for r in (*requests, *of_beside) if isinstance(r.found, Found) and not _point_file(out, r).exists()]
    if lacking and not logits.exists():
        _measure_original(checkpoint, windows, logits)
    return run


def _learns(recipe: Recipe, description: ModelDescription) -> bool:
    """Whether a recipe has anything to fine-tune; what a plan that is auto chooses nearly always has."""
    return is_auto(recipe.plan) or any(own.learns for own in plan_model(recipe, description).recovery.values())


def _measure_original(checkpoint: Checkpoint, windows: torch.Tensor, path: Path) -> float:
    """Write the float original's logits to a file, complete or not at all; returns its perplexity."""
    say(f"{checkpoint.name}: measuring the float original")
    with replace_file(path) as partial:
        logits = OriginalLogits(partial, windows, checkpoint.config.vocab_size)
        return logits.measure(whole_window(ModelStep(checkpoint.model)), windows).value


def _order(checkpoint: Checkpoint, recipe: Recipe) -> tuple[int, ...]:
    """The layers that may be targets, the one with the least angular distance first."""
    warmup, tokenizer = recipe.warmup, checkpoint.tokenizer_for("frontier")
    say(f"{checkpoint.name}: measuring the angular distance of every layer")
    windows = source_windows(tokenizer, warmup.text, warmup.window, warmup.windows)
    distances = angular_distances(checkpoint.model, windows, 1)
    layers = set(range(1, len(distances) - 1)) - set(find_sink_layers(checkpoint.model, windows[:1]))
    return tuple(sorted(layers, key=distances.__getitem__))


def _beside(
    options: FrontierOptions, original: Checkpoint, windows: torch.Tensor, settings: MeasurementSettings, tools: Tools
) -> _Request:
    """The unshared export of the other model, which has to have the same tokenizer."""
    assert options.beside is not None
    other = open_checkpoint(options.beside.model, dtype=None)
    tokenizer = other.tokenizer_for("--beside")
    same = tokenizer.get_vocab() == original.tokenizer_for("frontier").get_vocab()
    if not same or not torch.equal(source_windows(tokenizer, options.text, windows.shape[1], len(windows)), windows):
        raise SharpError(
            f"--beside {options.beside.model}: its tokenizer differs from that of {original.name}, so their "
            "perplexities cannot be compared; name a model of the same tokenizer"
        )
    if other.plan is not None:
        raise SharpError(f"--beside {options.beside.model}: already shares layers; name its original")
    architecture = other.architecture
    check_length(windows.shape[1], other.config)
    recipe = _base(options.beside).fitted_to(architecture)
    recipe = measured_recipe(recipe, windows.shape[1], architecture.positions, tools)
    nbytes = Subject(recipe, other.description).bytes_of(recipe)
    key = point_key(recipe, other.fingerprint, settings, original.fingerprint)
    comparable = architecture.vocabulary == original.architecture.vocabulary
    return _Request(other.name, 1.0, Found(recipe, nbytes), other.description, key, comparable=comparable)


def _point_file(out: Path, request: _Request) -> Path:
    return out / "points" / f"{request.key}.json"


def _measured(run: _Run, requests: Sequence[_Request]) -> tuple[tuple[Point, ...], tuple[Missing, ...]]:
    """The measurement of every request, from its file or now; and those that there is none of."""
    points, missing = list[Point](), list[Missing]()
    for number, (request, after) in enumerate(zip_longest(requests, requests[1:]), start=1):
        found, path = request.found, _point_file(run.out, request)
        if isinstance(found, TooLarge):
            missing.append(request.lacks(_too_large(found, run.unshared_bytes), found.smallest))
            continue
        measured = read_data(path, Measurement)
        if measured is None:
            say(f"point {number} of {len(requests)}: {request.name}")
            original = _original_of(run) if request.comparable else None
            bench = Bench(run.tools, run.windows, original, run.out, run.keep)
            try:
                measured = bench.measure(found.recipe, request.description, request.key)
            except SharpError as error:
                if request.size == 1.0:  # what the others are compared with
                    raise
                warn(f"{request.name}: left out: {error}")
                missing.append(request.lacks(str(error)))
                continue
            finally:
                if after is None or (request.method, request.size) != (after.method, after.size):
                    bench.forget()
            write_data(path, measured)
            say(f"{request.name}: {measured.file_bytes:,} bytes, perplexity {measured.perplexity:.2f}")
        points.append(Point(method=request.method, size=request.size, finetuned=request.finetuned, measured=measured))
    return tuple(points), tuple(missing)


def _original_of(run: _Run) -> OriginalLogits:
    return OriginalLogits(run.logits, run.windows, run.subject.description.architecture.vocabulary)


def _too_large(found: TooLarge, unshared_bytes: int) -> str:
    smallest = found.smallest
    return "not reached" + ("" if smallest is None else f"; its smallest is {smallest / unshared_bytes:.1%}")
