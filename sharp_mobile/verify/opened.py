"""Open a `.pte` to run it: with its manifest in this process, without one in a child process.

    manifest.json next to it, same SHA-256 ─►  this process
    manifest.json next to it, another one  ─►  an error
    no manifest.json                      ──►  a child process with limits, and a warning

ExecuTorch does not verify a program before it runs it: a damaged one crashes, hangs or takes all memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import ProgramLimits, Step, open_pte
from sharp_mobile.verify.inspect_export import described_by_manifest
from sharp_mobile.verify.isolated_program import IsolatedProgram
from sharp_mobile.verify.manifest import MANIFEST_JSON, MODEL_PTE, check_sha256


@dataclass(frozen=True)
class OpenedProgram:
    """A program that is ready to run.

    step: refuses token ids that the program does not know. sha256: of the file, compared with its manifest's; None
    without a manifest. warnings: what the user should know, a line each.
    """

    pte: Path
    step: Step
    limits: ProgramLimits
    sha256: str | None = None
    warnings: tuple[str, ...] = ()


def find_pte(path: Path) -> Path:
    """The `.pte` of an export's directory, or the file itself.

    Raises:
        SharpError: there is none.
    """
    pte = path / MODEL_PTE if path.is_dir() else path
    if not pte.is_file():
        raise SharpError(f"{pte}: no such file; name an export's directory or a .pte")
    return pte


def unverified(pte: Path) -> str:
    """The warning about a `.pte` without a manifest."""
    return f"{pte}: no {MANIFEST_JSON} next to it: damage to its weights cannot be detected"


@contextmanager
def open_program(path: Path) -> Iterator[OpenedProgram]:
    """Open an export's directory or a `.pte` (see the module).

    Raises:
        SharpError: it is missing, is not the file of its manifest, cannot be loaded, or crashes, hangs or takes too
            much memory.
    """
    pte = find_pte(path)
    described = described_by_manifest(pte)
    if described is not None:
        check_sha256(pte, described.sha256)
        step, limits = open_pte(pte)
        yield OpenedProgram(pte, _known_tokens(pte, step, limits.vocabulary), limits, described.sha256)
        return
    with IsolatedProgram(pte) as program:
        limits = program.load()
        step = _known_tokens(pte, program.step, limits.vocabulary)
        yield OpenedProgram(pte, step, limits, warnings=(unverified(pte),))


def _known_tokens(pte: Path, step: Step, vocabulary: int | None) -> Step:
    """A step that refuses token ids beyond the vocabulary, for which the embedding would read other memory."""
    if vocabulary is None:
        return step

    def checked(tokens: torch.Tensor, position: int) -> torch.Tensor:
        largest = int(tokens.max()) if tokens.numel() else 0
        if largest >= vocabulary:
            raise SharpError(
                f"{pte.with_name('tokenizer.json')}: gives the token id {largest}, and {pte.name} has {vocabulary} "
                "tokens (get_vocab_size); put the tokenizer of this model there"
            )
        return step(tokens, position)

    return checked
