"""What tests on fake phones have in common: exports of random bytes, and short naps."""

import random
from pathlib import Path

from tiny_exports import write_export

from sharp_mobile.bench.devices.device import Patience
from sharp_mobile.bench.exports import Export, read_export

# A bit of everything: blocks, chunks, and a rest.
PTE_BYTES = (1 << 23) + 12345
# Looks often; waits as long as on a phone, for the machine may have other work.
PATIENCE = Patience(poll=0.02)


def an_export(directory: Path, seed: int = 0, size: int = PTE_BYTES, executorch: str = "1.5.1") -> Export:
    content = random.Random(seed).randbytes(size)
    write_export(directory, content=content, tokens=(5, 6, 7), versions={"executorch": executorch})
    (directory / "tokenizer.json").write_text('{"a": "tokenizer"}')
    return read_export(directory)


def small_files(export: Export) -> int:
    """Bytes of such an export beside its `.pte`."""
    return sum((export.directory / name).stat().st_size for name in ("tokenizer.json", "manifest.json"))
