"""Downstream tasks by lm-eval: accuracy of a model in any form, with its standard error.

Tasks are named as lm-eval names them; their data come from the hub. Tasks in local files (lm-eval's YAML, over local
data) are found under `include_path`; the Python functions that such a file names are run. `sotu_continuation` needs
neither the hub nor a file: see `evaluate.sotu_continuation`. `table6` stands for the tasks of the paper's Table 6.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from sharp_mobile.console import shows_bars
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import Step
from sharp_mobile.text.sources import dataset_bars

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

# Table 6, Appendix C.2: the paper's LAMBADA and QA4MRE are several tasks in lm-eval; which it took, it does not say.
TABLE6 = (
    *("sciq", "boolq", "piqa", "arc_easy", "arc_challenge", "winogrande", "medmcqa"),
    *("bbh", "gsm8k", "mathqa", "mutual", "lambada_openai", "commonsense_qa", "qa4mre"),
)
_OWN_FILES = Path(__file__).with_name("task_files")
_BOOTSTRAPS = 1000  # for the few metrics whose standard error has no formula


@dataclass(frozen=True)
class Score:
    """A task's metric, its standard error where lm-eval gives one, and over how many questions."""

    task: str
    metric: str
    value: float
    error: float | None
    questions: int | None

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.3f}"
        return f"{self.metric} {self.value:.3f}{error}"


@dataclass(frozen=True)
class Tasks:
    """Loaded tasks, to be put to any number of models: what lm-eval's `TaskManager.load` gives."""

    names: tuple[str, ...]
    loaded: Any


def load_tasks(names: Sequence[str], include_path: Sequence[Path] = ()) -> Tasks:
    """Find tasks by name, and read or download their data.

    Raises:
        SharpError: lm-eval is not installed, a name or directory does not exist, or the data cannot be had.
    """
    with _lm_eval():
        from lm_eval.tasks import TaskManager

        for directory in include_path:
            if not directory.is_dir():
                raise SharpError(f"{directory}: no such directory; name one with lm-eval's task files (.yaml)")
        wanted = tuple(dict.fromkeys(task for name in names for task in (TABLE6 if name == "table6" else (name,))))
        own = [str(_OWN_FILES), *map(str, include_path)]
        try:
            manager = TaskManager(include_path=own, include_defaults=False)
            if any(name not in manager.all_tasks for name in wanted):
                manager = TaskManager(include_path=own)  # reads lm-eval's thousands of task files: seconds
        except ImportError:
            raise
        except Exception as error:  # a file under include_path that is no YAML, or no task
            where = ", ".join(map(str, include_path))
            raise SharpError(f"{where}: its task files cannot be read: {_one_line(error)}") from error
        with dataset_bars():
            return Tasks(wanted, _load(manager, wanted))


def _load(manager: "TaskManager", names: Sequence[str]) -> Any:
    for name in names:
        if name not in manager.all_tasks:
            raise SharpError(
                f"task {name}: no such task; use one of lm-eval's (`lm-eval ls tasks` lists them), "
                "'sotu_continuation', 'table6', or give its file's directory by --include-path"
            )
    try:
        return manager.load(list(names))
    except SharpError:
        raise
    except ConnectionError as error:
        raise SharpError(
            f"task {', '.join(names)}: its data is not in the local cache, and the hub cannot be reached; connect to "
            "the network, or take a task on local data (sotu_continuation, --include-path)"
        ) from error
    except Exception as error:  # a task file's own mistakes, and all that its data may be
        raise SharpError(f"task {', '.join(names)}: cannot be loaded: {_one_line(error)}") from error


def score(
    tasks: Tasks,
    step: Step,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    stop: Sequence[int],
    limit: int | None = None,
) -> list[Score]:
    """Put tasks to a step function.

    Args:
        max_length: tokens that it takes at most.
        stop: the tokens that end a text.
        limit: the first questions of each task only.

    Raises:
        SharpError: a task cannot be evaluated so.
    """
    with _lm_eval():
        from lm_eval.evaluator import evaluate

        from sharp_mobile.evaluate.harness import StepLM

        model = StepLM(step, tokenizer, max_length, stop, sys.stderr if shows_bars() else None)
        # lm-eval writes bars and remarks of its own; ours goes to the standard error that was there before.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                results = evaluate(model, tasks.loaded, limit=limit, bootstrap_iters=_BOOTSTRAPS, log_samples=False)
            except (SharpError, ImportError):
                raise
            except Exception as error:  # code that a task would run, images; templates and columns of its file
                message = f"{type(error).__name__}: {_one_line(error)}"
                raise SharpError(f"task {', '.join(tasks.names)}: cannot be evaluated: {message}") from error
    return _scores(results)


def _scores(results: Any) -> list[Score]:
    """lm-eval's results, {"task": {"acc,none": 0.5, "acc_stderr,none": 0.1, ...}}, flat."""
    scores = []
    for task, metrics in results["results"].items():
        questions = results["n-samples"].get(task, {}).get("effective")
        for name, value in metrics.items():
            metric, _, filtered = name.partition(",")
            if not filtered or metric.endswith("_stderr"):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            shown = metric if filtered == "none" else f"{metric} ({filtered})"
            scores.append(Score(task, shown, value, error if isinstance(error, float) else None, questions))
    return scores


def describe(scores: Sequence[Score]) -> list[str]:
    """A line a task: its metrics with their standard errors."""
    lines = []
    for task in dict.fromkeys(score.task for score in scores):
        own = [score for score in scores if score.task == task]
        count = "" if own[0].questions is None else f" ({own[0].questions} questions)"
        lines.append(f"{task} {', '.join(map(str, own))}{count}")
    return lines


@contextlib.contextmanager
def _lm_eval() -> Any:
    """With lm-eval, quietly; or an error that says how to get it."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # it would fork to bootstrap, with PyTorch's threads running
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise SharpError(
            "tasks need lm-eval, which is not installed; run `pip install 'sharp-mobile[eval]'`"
        ) from error


def _one_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
