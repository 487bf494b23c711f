"""The measurements of one export as lines for the user."""

from collections.abc import Iterator

from sharp_mobile.bench.results import Memory, Results, Samples
from sharp_mobile.bench.verdict import warnings_of


def summary(results: Results) -> list[str]:
    """The lines of one export: sizes, times, memory and warnings; what was not measured is left out."""
    lines = [f"{results.export.name}: {results.export.file_bytes:,} bytes, plan {results.export.plan}"]
    lines += (f"  {name:<25} {value}" for name, value in _rows(results))
    return lines + [f"  warning: {warning}" for warning in warnings_of(results)]


def _rows(results: Results) -> Iterator[tuple[str, str]]:
    load, first_token = results.load, results.first_token
    for name, samples in (("first", load.first), ("later", load.later), ("cold", load.cold)):
        if samples is not None:
            yield f"load, {name}", _milliseconds(samples)
    for name, to_token in (("first launch", first_token.first), ("later", first_token.later)):
        if to_token is not None:
            yield f"first token, {name}", f"{_milliseconds(to_token)} after {to_token.tokens} tokens"
    if results.forward is not None:
        yield "forward", _milliseconds(results.forward)
    for name, tokens in (("prefill", results.prefill), ("decode", results.decode)):
        if tokens is not None:
            yield name, f"{tokens.per_second:.1f} tokens/s ({tokens.tokens} tokens)"
    if (latency := results.token_latency) is not None:
        yield "one token", f"p50 {1e3 * latency.p50:.2f} ms, p90 {1e3 * latency.p90:.2f} ms"
    for deep in results.decode_at_depth:
        yield f"decode at {deep.depth}", f"{deep.per_second:.1f} tokens/s ({deep.tokens} tokens)"
    for point in results.threads_sweep:
        yield (
            f"{point.threads} thread{'s' if point.threads > 1 else ''}",
            f"prefill {point.prefill.per_second:.1f}, decode {point.decode.per_second:.1f} tokens/s",
        )
    if results.sustained:
        first, last = results.sustained[0], results.sustained[-1]
        seconds = last.at - first.at + first.seconds
        yield "sustained", f"{first.per_second:.1f} to {last.per_second:.1f} tokens/s in {seconds:.0f} s"
    if results.memory is not None:
        yield "memory", _bytes(results.memory)
    if results.idle_memory is not None:
        yield "memory before load", _bytes(results.idle_memory)


def _bytes(memory: Memory) -> str:
    parts = {"anonymous": memory.anonymous, "files": memory.file, "peak": memory.peak, "footprint": memory.footprint}
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in parts.items() if size is not None)


def _milliseconds(samples: Samples) -> str:
    return f"{1e3 * samples.median:.2f} ms (mean {1e3 * samples.mean:.2f} ± {1e3 * samples.std:.2f})"
