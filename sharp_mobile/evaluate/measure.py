"""The verb `evaluate`: perplexity of one model in the forms that it takes on its way to a phone.

Every form sees the same windows, so that what each step costs can be read off: the model in float, the same quantized
(what quantization costs), and through a `.pte` (what lowering costs, which should be nothing).
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.lower.inspect import MODEL_PTE
from sharp_mobile.lower.runtime import load_pte, whole_window
from sharp_mobile.pipeline import (
    RECOVERED,
    Stages,
    check_lowerable,
    eager_step,
    make_decoder,
    open_recipe,
    share,
    write_pte,
)
from sharp_mobile.recipe import Recipe
from sharp_mobile.recover.data import source_windows

Say = Callable[[str], None]


def evaluate(
    recipe: Recipe,
    text: str,
    window: int,
    count: int,
    *,
    quantized: bool,
    pte: bool,
    allow_pickle: bool,
    progress: bool,
    say: Say,
    work: Path = RECOVERED,
) -> Iterator[str]:
    """Perplexity of a recipe's model, a line a form, each as soon as it is known.

    Args:
        text, window, count: see `recover.data`.
        quantized: also the quantized model in eager mode.
        pte: also the quantized model through a `.pte`, which is made for this and deleted.

    Raises:
        SharpError: as for an export; or a text without a tokenizer to read it with.
    """
    stages = Stages()
    lower = recipe.lower.model_copy(update={"max_length": max(window + 1, 2), "logits": "all"})
    recipe = recipe.model_copy(update={"lower": lower})
    opened = open_recipe(recipe, allow_pickle=allow_pickle, progress=progress)
    if quantized or pte:
        check_lowerable(opened)
    shared = share(opened, work=work, progress=progress, say=say, stages=stages)
    tokenizer = shared.checkpoint.tokenizer()
    if tokenizer is None:
        raise SharpError(f"{shared.checkpoint.path}: there is no tokenizer to read {text} with; add tokenizer.json")
    windows = source_windows(tokenizer, text, window, count)

    def line(form: str, logits: Callable[[torch.Tensor], torch.Tensor]) -> str:
        return _line(form, logits, windows, text, progress)

    yield line("float, eager", lambda tokens: shared.checkpoint.model(tokens).logits)
    if not (quantized or pte):
        return
    decoder = make_decoder(recipe, shared, stages)
    if quantized:
        yield line("quantized, eager", whole_window(eager_step(decoder)))
    if pte:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, MODEL_PTE)
            write_pte(decoder, shared, path, stages, progress)
            yield line("quantized, .pte", whole_window(load_pte(path)))


def evaluate_pte(path: Path, text: str, window: int, count: int, *, progress: bool) -> str:
    """Perplexity through a `.pte` or an export, with the tokenizer beside it; a line.

    Raises:
        SharpError: no `.pte`, no tokenizer beside it, or a window that its cache does not hold.
    """
    from transformers import PreTrainedTokenizerFast

    pte = path / MODEL_PTE if path.is_dir() else path
    tokenizer_file = pte.with_name("tokenizer.json")
    if not tokenizer_file.is_file():
        raise SharpError(f"{tokenizer_file}: is missing; put the model's tokenizer beside the .pte")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file))
    windows = source_windows(tokenizer, text, window, count)
    return _line(str(pte), whole_window(load_pte(pte)), windows, text, progress)


def _line(
    form: str, logits: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor, text: str, progress: bool
) -> str:
    result = perplexity(logits, windows, progress=progress)
    on = f"{text}, {len(windows)} windows of {windows.shape[1]}, {result.tokens} tokens scored"
    return f"{form}: perplexity {result.value:.3f} ({on})"
