"""The divergence of a form is that of the whole distributions, and the original's file costs it next to nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.divergence import OriginalLogits, diverging
from sharp_mobile.evaluate.perplexity import perplexity

WINDOWS = tiny_tokens(24, batch=3)


def logits_of(seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    model = tiny_model(seed=seed)
    return lambda tokens: model(tokens).logits


def measured(path: Path) -> OriginalLogits:
    original = OriginalLogits(path, WINDOWS, 256)
    assert original.measure(logits_of(0), WINDOWS) == perplexity(logits_of(0), WINDOWS)
    return original


def test_it_is_the_mean_kl_of_the_distributions(tmp_path: Path) -> None:
    scored, divergence = diverging(logits_of(1), WINDOWS, measured(tmp_path / "original"))
    p, q = (torch.log_softmax(logits_of(seed)(WINDOWS)[:, :-1].double(), dim=-1) for seed in (0, 1))
    assert divergence.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-3)
    assert divergence.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    assert scored == perplexity(logits_of(1), WINDOWS)


def test_the_original_does_not_diverge_from_itself(tmp_path: Path) -> None:
    _, divergence = diverging(logits_of(0), WINDOWS, measured(tmp_path / "original"))
    assert divergence.kl == pytest.approx(0, abs=1e-6)
    assert divergence.agreement == 1
    assert str(divergence) == "KL 0.0000 nats a token, top-1 agreement 100.0%"


def test_logits_beyond_float16_are_kept(tmp_path: Path) -> None:
    def certain(tokens: torch.Tensor) -> torch.Tensor:
        return 1e6 * torch.nn.functional.one_hot(tokens, 256).float()

    original = OriginalLogits(tmp_path / "original", WINDOWS, 256)
    original.measure(certain, WINDOWS)
    _, divergence = diverging(certain, WINDOWS, original)
    assert (divergence.kl, divergence.agreement) == (0, 1)


def test_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "below" / "original"
    first = diverging(logits_of(1), WINDOWS, measured(path))
    assert diverging(logits_of(1), WINDOWS, OriginalLogits(path, WINDOWS, 256)) == first
    assert path.stat().st_size == 2 * 3 * 23 * 256


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    wide = tiny_model(vocab_size=300)
    with pytest.raises(SharpError, match="300 tokens and the original 256"):
        diverging(lambda tokens: wide(tokens).logits, WINDOWS, measured(tmp_path / "original"))


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SharpError, match=r"no room for 0\.0 GB of the original's logits"):
        OriginalLogits(tmp_path / "file" / "original", WINDOWS, 256)
