"""Downstream tasks by lm-eval: accuracy with standard error, for any form of a model.

Tasks have lm-eval's names, and their data come from the hub. `include_path` adds tasks in local files (lm-eval's YAML,
over local data); the Python functions in such a file are run. `sotu_continuation` needs neither the hub nor a file: see
`evaluate.sotu_continuation`. `table6` selects the tasks of the paper's Table 6.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from sharp_mobile.console import shows_bars
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import Step
from sharp_mobile.text.sources import dataset_bars

if TYPE_CHECKING:
    from lm_eval.result_schema import EvalResults
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict

# Table 6, Appendix C.2. LAMBADA and QA4MRE are several tasks in lm-eval; the paper does not say which it used.
TABLE6 = (
    *("sciq", "boolq", "piqa", "arc_easy", "arc_challenge", "winogrande", "medmcqa"),
    *("bbh", "gsm8k", "mathqa", "mutual", "lambada_openai", "commonsense_qa", "qa4mre"),
)
_OWN_FILES = Path(__file__).with_name("task_files")
_BOOTSTRAPS = 1000  # samples for the few metrics whose standard error has no formula


@dataclass(frozen=True)
class Score:
    """A task's metric, its standard error if lm-eval reports one, and the number of questions."""

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
    """Loaded tasks, for any number of models: the result of lm-eval's `TaskManager.load`."""

    names: tuple[str, ...]
    loaded: "TaskDict"


def load_tasks(names: Sequence[str], include_path: Sequence[Path] = ()) -> Tasks:
    """Find tasks by name, and read or download their data.

    Raises:
        SharpError: lm-eval is not installed, a name or directory does not exist, or the data cannot be loaded.
    """
    with _lm_eval():
        from lm_eval.tasks import TaskManager

        for directory in include_path:
            if not directory.is_dir():
                raise SharpError(f"{directory}: no such directory; name one with lm-eval's task files (.yaml)")
        requested = tuple(dict.fromkeys(task for name in names for task in (TABLE6 if name == "table6" else (name,))))
        own = [str(_OWN_FILES), *map(str, include_path)]
        try:
            manager = TaskManager(include_path=own, include_defaults=False)
            if any(name not in manager.all_tasks for name in requested):
                manager = TaskManager(include_path=own)  # takes seconds: it reads lm-eval's thousands of task files
        except ImportError:
            raise
        except Exception as error:  # a file under include_path that is not YAML, or not a task
            where = ", ".join(map(str, include_path))
            raise SharpError(f"{where}: its task files cannot be read: {_one_line(error)}") from error
        with dataset_bars():
            return Tasks(requested, _load(manager, requested))


def _load(manager: "TaskManager", names: Sequence[str]) -> "TaskDict":
    for name in names:
        if name not in manager.all_tasks:
            raise SharpError(
                f"task {name}: no such task; use one of lm-eval's (`lm-eval ls tasks` lists them), "
                "'sotu_continuation', 'table6', or name its file's directory with --include-path"
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
    except Exception as error:  # mistakes of a task file, and any error of its data
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
    """Evaluate tasks with a step function.

    Args:
        max_length: the largest number of tokens that it takes.
        stop: the tokens that end a text.
        limit: use only this many first questions of each task.

    Raises:
        SharpError: a task cannot be evaluated.
    """
    with _lm_eval():
        from lm_eval.evaluator import evaluate

        from sharp_mobile.evaluate.harness import StepLM

        model = StepLM(step, tokenizer, max_length, stop, sys.stderr if shows_bars() else None)
        # Hide lm-eval's own bars and messages. Our bar holds the original standard error.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                results = evaluate(model, tasks.loaded, limit=limit, bootstrap_iters=_BOOTSTRAPS, log_samples=False)
            except (SharpError, ImportError):
                raise
            except Exception as error:  # tasks that run code or need images; wrong templates and columns
                message = f"{type(error).__name__}: {_one_line(error)}"
                raise SharpError(f"task {', '.join(tasks.names)}: cannot be evaluated: {message}") from error
    return _scores(results)


def _scores(results: "EvalResults") -> list[Score]:
    """Flatten lm-eval's results, {"task": {"acc,none": 0.5, "acc_stderr,none": 0.1, ...}}."""
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
    """A line per task: its metrics with their standard errors."""
    lines = []
    for task in dict.fromkeys(score.task for score in scores):
        own = [score for score in scores if score.task == task]
        count = "" if own[0].questions is None else f" ({own[0].questions} questions)"
        lines.append(f"{task} {', '.join(map(str, own))}{count}")
    return lines


@contextlib.contextmanager
def _lm_eval() -> Iterator[None]:
    """Import lm-eval within the block, without its log; a missing package gives an error with the install command."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # its bootstrap would fork while PyTorch's threads run
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
