"""What is wrong with measurements: all that is judged of a results file is judged here.

The apps and the runner only write what they measured, so a file from any device gets the same warnings, also long after
it was written.
"""

import statistics
from collections.abc import Iterator, Sequence

from sharp_mobile.bench.results import Condition, Results, Window

# The thermal states of Android and iOS in which the processor is throttled.
_THROTTLED = frozenset(("moderate", "serious", "severe", "critical", "emergency", "shutdown"))
# A sustained run whose end is slower than this part of its start.
_SLOWED = 0.9


def warnings_of(results: Results) -> tuple[str, ...]:
    """The warnings of a results file: those that it has, and those that its measurements give."""
    judged = (
        *results.warnings,
        *divergence_warnings(results.tokens, results.expected_tokens, results.likeliest),
        *throttling_warnings(results),
        *_slowdown_warnings(results.sustained),
        *_battery_warnings(results),
    )
    return tuple(dict.fromkeys(judged))


def throttled(thermal: str | None) -> bool:
    """Whether the processor is throttled in this thermal state; False for an unknown state."""
    return thermal in _THROTTLED


def throttling_warnings(results: Results) -> tuple[str, ...]:
    """The warning of a device that was throttled at the start of the run or during it."""
    states = [results.device.thermal, *(condition.thermal for condition in results.conditions)]
    hot = next((state for state in states if throttled(state)), None)
    if hot is None:
        return ()
    return (f"throttled: the thermal state was {hot}, so the processor was slowed down; let it cool and measure again",)


def divergence_warnings(
    tokens: Sequence[int], expected: Sequence[int], likeliest: Sequence[tuple[int, float]] = ()
) -> tuple[str, ...]:
    """The warning for an export that does not generate the tokens of its manifest.

    Args:
        likeliest: tokens and logits after the prompt, to show how close a different first token is.
    """
    if not tokens or not expected or tuple(tokens) == tuple(expected):
        return ()
    pairs = zip(tokens, expected, strict=False)
    position = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(tokens), len(expected)))
    logits = dict(likeliest)
    if position > 0:
        why = "kernels of another CPU round differently"
    elif tokens[0] in logits and expected[0] in logits:
        behind = logits[tokens[0]] - logits[expected[0]]
        why = f"kernels of another CPU round differently: the export's token is {behind:.2f} behind in logits"
    else:
        why = "the export's first token is not among the likeliest, so this is another model"
    return (f"greedy tokens differ from the export's at position {position} of {len(expected)}; {why}",)


def _slowdown_warnings(windows: Sequence[Window]) -> Iterator[str]:
    """Compare the last quarter of a sustained run with the first one."""
    quarter = len(windows) // 4
    if quarter == 0:
        return
    rates = [window.per_second for window in windows]
    start, end = statistics.median(rates[:quarter]), statistics.median(rates[-quarter:])
    if end < _SLOWED * start:
        yield (
            f"sustained decoding slowed down from {start:.1f} to {end:.1f} tokens/s ({end / start - 1:+.0%}); long "
            "answers have the lower speed"
        )


def _battery_warnings(results: Results) -> Iterator[str]:
    if any(condition.charging for condition in during_sustained(results)):
        yield "the phone was charging, so the battery shows no use; unplug it and use adb over Wi-Fi"


def during_sustained(results: Results) -> list[Condition]:
    """The conditions during a sustained run."""
    if not results.sustained:
        return []
    start = results.sustained[0].at - results.sustained[0].seconds
    return [condition for condition in results.conditions if start <= condition.at <= results.sustained[-1].at]


def charge_per_token(results: Results) -> float | None:
    """Microampere-hours of the battery per token of the sustained run; None if the system does not report it."""
    conditions = during_sustained(results)
    charges = [(c.at, c.charge_uah) for c in conditions if c.charge_uah is not None]
    if len(charges) < 2 or any(c.charging for c in conditions):
        return None
    (start, before), (end, after) = charges[0], charges[-1]
    seconds = results.sustained[-1].at - results.sustained[0].at + results.sustained[0].seconds
    tokens = sum(window.tokens for window in results.sustained) * (end - start) / seconds
    return (before - after) / tokens if before > after and tokens > 0 else None
