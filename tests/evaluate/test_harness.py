"""A step function scores as lm-eval's own Hugging Face model does, however few logits it gives."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.step import ModelStep
from sharp_mobile.pte.runtime import Step

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sharp_mobile.evaluate.harness import StepLM

LENGTH = 40
QUESTIONS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a city."),
    ("The capital of France is", " x"),
    ("", "An empty context"),
    ("A space at the end ", "moves"),
    ("A context that is longer than the forty tokens that the model takes", " is cut"),
    ("The capital of France is", " Paris"),
]


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def last_only(step: Step) -> Step:
    return lambda tokens, position: step(tokens, position)[:, -1:]


def language_model(model: PreTrainedModel, wrap: Any = lambda step: step, **options: Any) -> StepLM:
    return StepLM(wrap(ModelStep(model)), tiny_tokenizer(), LENGTH, [2], **options)


@pytest.fixture(scope="module")
def hugging_face() -> HFLM:
    return HFLM(tiny_model(), tokenizer=tiny_tokenizer(), max_length=LENGTH, batch_size=1, device="cpu")


@pytest.mark.parametrize("wrap", [lambda step: step, last_only], ids=["all logits", "last logits"])
def test_log_likelihoods_are_lm_evals(hugging_face: HFLM, wrap: Any) -> None:
    asked = requests("loglikelihood", QUESTIONS)
    expected = hugging_face.loglikelihood(asked, disable_tqdm=True)
    got = language_model(tiny_model(), wrap).loglikelihood(asked)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in expected]
    assert [score for score, _ in got] == pytest.approx([score for score, _ in expected], rel=1e-4)


def test_the_greedy_continuation_is_told() -> None:
    model = tiny_model()
    context = [72, 101, 108]
    best = model.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False)[0, len(context) :].tolist()
    other = [*best[:-1], 3 if best[-1] != 3 else 4]
    scored = language_model(model)._loglikelihood_tokens([(None, context, best), (None, context, other)])
    assert [greedy for _, greedy in scored] == [True, False]


@pytest.mark.parametrize("wrap", [lambda step: step, last_only], ids=["all logits", "last logits"])
def test_long_texts_are_lm_evals(hugging_face: HFLM, wrap: Any) -> None:
    asked = requests("loglikelihood_rolling", [("short",), (5 * "more than one window of tokens ",)])
    expected = hugging_face.loglikelihood_rolling(asked, disable_tqdm=True)
    assert language_model(tiny_model(), wrap).loglikelihood_rolling(asked) == pytest.approx(expected, rel=1e-4)


def test_answers_are_lm_evals_and_end_before_a_stop_text(hugging_face: HFLM) -> None:
    def answers(model: Any, until: list[str]) -> list[str]:
        options = {"until": until, "max_gen_toks": 8, "do_sample": False}
        asked = requests("generate_until", [("Hello", options), ("Something else", options)])
        return model.generate_until(asked)

    whole = answers(language_model(tiny_model()), [])
    assert whole == answers(hugging_face, [])
    stop = whole[0][3:5]
    assert answers(language_model(tiny_model()), [stop])[0] == whole[0].partition(stop)[0]


def test_sampling_is_refused() -> None:
    options = {"until": [], "do_sample": True, "temperature": 1.0}
    with pytest.raises(SharpError, match="only greedy answers are supported"):
        language_model(tiny_model()).generate_until(requests("generate_until", [("Hello", options)]))


def test_what_does_not_fit_is_refused() -> None:
    model = language_model(tiny_model())
    with pytest.raises(SharpError, match="a continuation of 41 tokens exceeds the model's 40"):
        model.loglikelihood(requests("loglikelihood", [("a", 41 * "b")]))
    with pytest.raises(SharpError, match="answers have 40 tokens, which leaves no room"):
        model.generate_until(requests("generate_until", [("a", {"until": [], "max_gen_toks": 40})]))


def test_empty_texts_are_scored_and_continued_from_the_first_token() -> None:
    model = language_model(tiny_model())
    assert model.loglikelihood(requests("loglikelihood", [("a", "")])) == [(0.0, True)]
    options = {"until": [], "max_gen_toks": 4}
    (empty, first) = model.generate_until(requests("generate_until", [("", options), ("<s>", options)]))
    assert empty == first


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text"])
def test_a_model_continues_one_context_in_several_ways(model_type: str) -> None:
    model = tiny_model(model_type)  # the Gemmas with a window of 8, shorter than the context
    step = ModelStep(model)
    context, first, second = (torch.tensor([list(word)]) for word in (b"a context of some tokens", b"one", b"another"))
    step(context, 0)
    for choice in (first, second, first):
        logits = step(choice, context.shape[1])
        whole = model(torch.cat([context, choice], dim=1)).logits[:, context.shape[1] :]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)
    after = step(second, context.shape[1] + first.shape[1])
    whole = model(torch.cat([context, first, second], dim=1)).logits[:, -second.shape[1] :]
    torch.testing.assert_close(after, whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no step ended at position 5"):
        step(first, 5)
