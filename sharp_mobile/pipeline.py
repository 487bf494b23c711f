"""From a recipe to a checked export, step by step.

    recovered model (recovery.run) ─► decoder ─► quantize ─► lower ─► .pte ─► inspect, compare

It reads like the pipeline that it is; the work is in the rooms.
"""

import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.checkpoint.tokenizer import keep_spaces, load_tokenizer
from sharp_mobile.console import collected_warnings, say, warn
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.eager import eager_step
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import check_writable, replace_directory
from sharp_mobile.lower.run import write_pte
from sharp_mobile.model.duration import spoken, warmup_seconds
from sharp_mobile.model.sharing import sharing_text
from sharp_mobile.pte.runtime import load_pte
from sharp_mobile.quantize.run import check_lowerable, make_decoder
from sharp_mobile.quantize.stored import missing_bytes
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import mlps_alone
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.run import RECOVERED, RecoveredModel, open_recipe, share
from sharp_mobile.size_report import predict, report
from sharp_mobile.system.memory import return_freed_tensors
from sharp_mobile.system.timing import Stages
from sharp_mobile.text.prompt import prompt_tokens
from sharp_mobile.verify.agreement import TOLERANCE_FLOAT, TOLERANCE_INTEGER, Agreement, compare, sharing_problems
from sharp_mobile.verify.inspect import Inspection, inspect_pte
from sharp_mobile.verify.manifest import MANIFEST_JSON, MODEL_PTE, Expected, Manifest, Sizes, measure, versions
from sharp_mobile.verify.report import write_report
from sharp_mobile.verify.runner_tokenizer import RunnerTokenizer, open_as_runner

PROMPT = "What is the capital of France?"
# Compared with the eager model token by token, and printed.
GENERATED_TOKENS = 64
# Plans that an export of a model without one points to.
_SUGGESTED = ("t_next", "t_next2", "t_back")
# What two programs for the same floats differ by, relatively.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ExportResult:
    """A finished export."""

    directory: Path
    manifest: Manifest
    inspection: Inspection
    agreement: Agreement


def export(recipe: Recipe, name: str, out: Path, *, work: Path = RECOVERED) -> ExportResult:
    """Export what a recipe describes as a directory with `model.pte`, its tokenizer, a manifest and a report.

    The directory is written under a temporary name and takes the place of an older export only when every check has
    passed.

    Args:
        name: what the manifest and the report call it; budgets are found by it.
        work: where a recovered model is kept.

    Raises:
        SharpError: a wrong input, or an export that is not sound; nothing is written then.
    """
    return_freed_tensors()
    recipe.check_exportable()
    out = check_writable(out, sources=[recipe.model.path])
    stages = Stages()
    with stages.stage("open"):
        opened = open_recipe(recipe, mapped=True, work=work)
        for line in opened.recipe.cut_from(recipe):
            say(line)
        recipe = opened.recipe
        check_lowerable(opened.recipe, opened.checkpoint)
        prompt, warnings = _prompt_tokens(opened.checkpoint, recipe.lower.max_length)
        if len(prompt) >= recipe.lower.max_length:
            raise SharpError(
                f"lower.max_length: {recipe.lower.max_length} leaves no room for the "
                f"{len(prompt)}-token prompt of the export check; use {len(prompt) + 1} or more"
            )
        with tempfile.TemporaryDirectory() as scratch:  # report what the runner refuses before the long work
            warnings += _write_tokenizer(opened.checkpoint, Path(scratch)).warnings
        for warning in warnings:
            warn(warning)
        needed = predict(opened).file.total
        check_writable(out, needed=needed, sources=[opened.checkpoint.path])
    shared = share(opened, work=work, stages=stages)
    shared = replace(shared, warnings=(*shared.warnings, *warnings))
    decoder = make_decoder(recipe, shared.checkpoint, stages)
    with replace_directory(out, needed=needed) as partial:
        keys = write_pte(decoder, shared.checkpoint, partial / MODEL_PTE, stages)
        with stages.stage("inspect"):
            inspection = inspect_pte(partial / MODEL_PTE, keys)
        with stages.stage("compare with eager"):
            agreement = check_against_eager(partial / MODEL_PTE, decoder, prompt, shared.checkpoint, recipe)
        problems = [*inspection.problems, *sharing_problems(opened.plan, opened.recovery, keys), *agreement.problems()]
        if problems:
            raise SharpError(f"{out}: the export is not sound, nothing was written: {'; '.join(problems)}")
        tokenizer = _write_tokenizer(shared.checkpoint, partial)
        manifest = _manifest(recipe, name, shared, keys, inspection, agreement, prompt, stages, partial, tokenizer.file)
        (partial / MANIFEST_JSON).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        write_report(partial, manifest)
    return ExportResult(out, manifest, inspection, agreement)


def summary(result: ExportResult, *, profile: bool = False) -> list[str]:
    """The lines for the user about a finished export."""
    manifest, sizes = result.manifest, result.manifest.sizes
    agreement = result.agreement
    lines = [
        f"{result.directory / MODEL_PTE}: {sizes.file:,} bytes",
        *_savings(sizes),
        f"sound: every shared weight once, {result.inspection.delegates} XNNPACK delegates, no linear outside, "
        f"file {sizes.file / sizes.tensors - 1:.2%} larger than its tensors",
        f"like the eager model: {agreement.divergence:.2g} nats a token apart; {agreement.agreeing} of "
        f"{len(agreement.tokens)} tokens are its first choice too"
        + (f", the others within {agreement.largest_gap:.2g} of it in logits" if agreement.largest_gap else ""),
        f"it says: {manifest.expected.text.strip()!r}",
    ]
    if profile:
        lines += ["", f"{'stage':<20} {'seconds':>8} {'CPU s':>8} {'peak MB':>8}"]
        lines += [
            f"{stage.name:<20} {stage.seconds:8.1f} {stage.cpu_seconds:8.1f} {stage.peak_bytes / 1e6:8.0f}"
            for stage in manifest.stages
        ]
        total = sum(stage.cpu_seconds for stage in manifest.stages)
        lines.append(f"{'all':<20} {sum(stage.seconds for stage in manifest.stages):8.1f} {total:8.1f}")
    return lines


def sharing_offers(recipe: Recipe, argument: str) -> list[str]:
    """For a model of which nothing is shared: the sizes that presets would give, and their commands, in lines.

    Args:
        argument: the model as the user named it.

    Returns:
        Nothing if no preset makes the file smaller.
    """
    model = describe_model(recipe.model).architecture
    fitting = [name for name in _SUGGESTED if _has_targets(name, model.layers)]
    if not fitting:
        return []
    nothing, *plans = report([recipe.model_copy(update={"plan": name}) for name in fitting]).plans
    total = nothing.size.file.total
    different = {str(plan.planned.plan): plan for plan in reversed(plans)}.values()
    smaller = [plan for plan in reversed(different) if plan.size.file.total < total]
    if not smaller:
        return []
    warming = [spoken(warmup_seconds(model, recipe.warmup, plan.planned.recovery)) for plan in smaller]
    named = shlex.quote(argument)
    return [
        "",
        f"nothing is shared. With recovery parameters of rank {recipe.recovery.rank}, sharing would give:",
        *(
            f"  {plan.size.file.total:>13,} bytes ({plan.size.file.total / total - 1:+.1%}), {seconds} of warm-up:  "
            f"sharp-mobile export {named} --plan {plan.heading}"
            for plan, seconds in zip(smaller, warming, strict=True)
        ),
        f"Sharing costs quality. Measure it: sharp-mobile evaluate {named} --quantized --plan {smaller[0].heading}",
    ]


def _has_targets(preset: str, layers: int) -> bool:
    with suppress(SharpError):
        return bool(SharePlan.parse(preset, layers).targets)
    return False


def _savings(sizes: Sizes) -> list[str]:
    if not sizes.shared + sizes.recovery:
        return []
    return [
        f"with nothing shared it would be {sizes.unshared:,} bytes ({sizes.file / sizes.unshared - 1:+.1%}): "
        f"sharing saves {sizes.shared:,}, recovery parameters take {sizes.recovery:,}"
    ]


def check_against_eager(
    pte: Path, decoder: Decoder, prompt: list[int], checkpoint: Checkpoint, recipe: Recipe
) -> Agreement:
    """Generate with the `.pte` and compare its predictions with the eager decoder's."""
    eager = replace(decoder.options, all_logits=True)
    decoder.options, options = eager, decoder.options
    try:
        integer = "float" not in (recipe.quantize.linear, recipe.quantize.lm_head)
        tolerance = TOLERANCE_INTEGER if integer else TOLERANCE_FLOAT
        count = min(GENERATED_TOKENS, options.max_length - len(prompt))
        step, jittered = eager_step(decoder), eager_step(decoder, _ROUNDING) if integer else None
        return compare(lambda: load_pte(pte), step, prompt, count, checkpoint.eos_token_ids, tolerance, jittered)
    finally:
        decoder.options = options


def _prompt_tokens(checkpoint: Checkpoint, max_length: int) -> tuple[list[int], list[str]]:
    """The question that every export answers, in the model's chat template, and warnings.

    The question stands alone if the template fails or leaves no room for an answer. Without a tokenizer that gives
    it tokens there are fixed token ids.

    Raises:
        SharpError: the tokenizer gives a token id that the model does not know.
    """
    fixed = [token % checkpoint.config.vocab_size for token in range(1, 9)]
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        return fixed, []
    with collected_warnings() as warnings:
        prompt = prompt_tokens(tokenizer, PROMPT)
        alone = prompt_tokens(tokenizer, PROMPT, raw=True)
    if len(alone) < max_length <= len(prompt):
        warnings.append(
            f"the model's chat template makes the prompt {len(prompt)} tokens long, and lower.max_length is "
            f"{max_length}; the export is checked with the prompt alone"
        )
        prompt = alone
    largest = max(prompt, default=0)
    if largest >= checkpoint.config.vocab_size:
        raise SharpError(
            f"{checkpoint.path}: its tokenizer gives the token id {largest}, and the model has "
            f"{checkpoint.config.vocab_size} tokens (vocab_size); add the tokenizer of this model"
        )
    return prompt or fixed, warnings


def _write_tokenizer(checkpoint: Checkpoint, directory: Path) -> RunnerTokenizer:
    """Write the tokenizer as ExecuTorch's runner reads and speaks it, and open it as the runner does."""
    checkpoint.write_tokenizer(directory)
    keep_spaces(directory)
    return open_as_runner(directory, checkpoint.tokenizer(), checkpoint.path)


def _manifest(
    recipe: Recipe,
    name: str,
    shared: RecoveredModel,
    keys: dict[str, str],
    inspection: Inspection,
    agreement: Agreement,
    prompt: list[int],
    stages: Stages,
    directory: Path,
    tokenizer_file: str | None,
) -> Manifest:
    tokenizer = load_tokenizer(directory)  # as the export's users decode
    opened = shared.opened
    dropped = sum(not own.reference for own in opened.recovery.values())
    missing = (
        None
        if mlps_alone(opened.recovery)
        else missing_bytes(opened.architecture, opened.plan, opened.recovery, recipe.quantize)
    )

    def decode(ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "" if tokenizer is None else str(tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    return Manifest(
        name=name,
        sha256=inspection.sha256,
        recipe=recipe.model_dump(),
        source=shared.checkpoint.source,
        fingerprint=shared.checkpoint.fingerprint,
        plan=sharing_text(opened.plan, opened.recovery),
        layers=opened.plan.layers,
        stored_ratio=opened.plan.stored_ratio,
        compression_ratio=opened.compression_ratio,
        sizes=measure(inspection.file_bytes, inspection.tensors, dropped, missing),
        metadata=inspection.metadata,
        delegates=inspection.delegates,
        operators=inspection.operators,
        divergence=agreement.divergence,
        expected=Expected(
            prompt=decode(prompt),
            prompt_tokens=tuple(prompt),
            tokens=agreement.tokens,
            text=decode(agreement.tokens, skip_special_tokens=True),
        ),
        tensors=inspection.tensors,
        names=keys,
        stages=tuple(stages.done),
        versions=versions(),
        warnings=shared.warnings,
        tokenizer=tokenizer_file,
    )
