"""From a recipe to a measured export: recover, quantize, lower, check, and measure through the `.pte`.

The export gives the logits of all tokens and has a cache for one window, so that a window is read in one step. If this
machine has the tools (see `bench`), attention is portable, and the C++ runner measures memory and, on the emulated
phone, the instructions of a token. Otherwise memory is predicted and instructions are left out.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from sharp_mobile.bench.arm64.emulation import Emulator, find_emulator
from sharp_mobile.bench.arm64.phone import emulated_phone
from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.bench.runner import Task, build_runner, launch
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.divergence import OriginalLogits, diverging
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.model.planned import ModelDescription, plan_model
from sharp_mobile.paper.frontier.methods import changed
from sharp_mobile.paper.frontier.points import Measurement
from sharp_mobile.pipeline import export
from sharp_mobile.pte.runtime import whole_window
from sharp_mobile.recipe.plan_budget import is_auto
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.size_report import predict
from sharp_mobile.verify.opened import open_program

PROFILE = "pixel-6"
_PROMPT_ROOM = 64  # tokens that the prompt of the export check may need, if windows are shorter


@dataclass(frozen=True)
class Tools:
    """What this machine can measure in addition to the `.pte` itself.

    Attributes:
        runner: the host's runner, for memory; emulator: for instructions.
        lacking: what is missing and how to get it, a line each.
    """

    runner: Path | None = None
    emulator: Emulator | None = None
    lacking: tuple[str, ...] = ()


def find_tools() -> Tools:
    """The tools of this machine."""
    lacking, runner, emulator = [], None, None
    try:
        runner = build_runner()
    except SharpError as error:
        lacking.append(f"memory is predicted, not measured: {error}")
    try:
        emulator = find_emulator()
    except SharpError as error:
        lacking.append(f"instructions are not counted: {error}")
    return Tools(runner, emulator, tuple(lacking))


def measured_recipe(recipe: Recipe, window: int, positions: int, tools: Tools) -> Recipe:
    """The recipe whose `.pte` reads windows of `window` tokens, for a model with so many positions."""
    length = min(positions, max(window, _PROMPT_ROOM) + 1)
    changes: dict[str, object] = {"lower.max_length": length, "lower.logits": "all"}
    if tools.runner or tools.emulator:
        changes["lower.attention"] = "portable"
    return changed(recipe, changes)


@dataclass(frozen=True)
class Bench:
    """What all points of a model are measured with.

    Attributes:
        windows: int64 [windows, T].
        original: the float original's logits; None if the model's vocabulary is another.
        directory: of exports and recovered models.
        keep: whether both stay after a measurement; a recovered model stays anyway while `forget` is not called.
    """

    tools: Tools
    windows: torch.Tensor
    original: OriginalLogits | None
    directory: Path
    keep: bool = False

    def measure(self, recipe: Recipe, description: ModelDescription, key: str) -> Measurement:
        """Export a recipe and measure it.

        Args:
            key: the name of the export's directory.

        Raises:
            SharpError: as `pipeline.export` and `open_program`; the runner fails.
        """
        started = time.monotonic()
        exported, work = self.directory / "exports" / key, self.directory / "recovered"
        try:
            manifest = export(recipe, description.name, exported, work=work).manifest
            with open_program(exported) as program:
                step = whole_window(program.step)
                if self.original is None:
                    scored, divergence = perplexity(step, self.windows), None
                else:
                    scored, divergence = diverging(step, self.windows, self.original)
            if is_auto(recipe.plan):  # as it was chosen
                recipe = changed(recipe, {name: manifest.recipe[name] for name in ("plan", "share", "recovery")})
            planned, pte = plan_model(recipe, description), program.pte
            return Measurement(
                plan=manifest.plan,
                recipe=recipe.model_dump(mode="json", exclude={"model"}),
                perplexity=scored.value,
                tokens=scored.tokens,
                kl=None if divergence is None else divergence.kl,
                agreement=None if divergence is None else divergence.agreement,
                file_bytes=manifest.sizes.file,
                resident_bytes=self._resident(pte) or predict(planned).resident.total,
                instructions=self._instructions(pte),
                seconds=time.monotonic() - started,
            )
        finally:
            if not self.keep:
                shutil.rmtree(exported, ignore_errors=True)

    def forget(self) -> None:
        """Delete recovered models, each as large as the original; what a plan that is auto was chosen by stays."""
        if self.keep:
            return
        with suppress(OSError):
            for path in (self.directory / "recovered").iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def _resident(self, pte: Path) -> int:
        """Resident bytes after a forward pass of one token; 0 without a runner."""
        if self.tools.runner is None:
            return 0
        memory = launch(self.tools.runner, pte.resolve(), Task(warmups=0, forwards=1)).memory_after_forward
        return memory.anonymous + memory.file

    def _instructions(self, pte: Path) -> int | None:
        """Instructions of one token on the emulated phone."""
        if self.tools.emulator is None:
            return None
        with emulated_phone(self.tools.emulator, read_profile(PROFILE), pte) as phone:
            return phone.count(Task(warmups=0, forwards=1, markers="forward"))[1].instructions
