"""From documents to training sequences: tokenize, split and pack.

    documents ─► tokens ─► 99% ─► │ document 1 … ⟂ document 2 ⟂ docum│ent 3 … ⟂ … │   full sequences of T tokens
                      └──► 1%  ─► │ …                                │            │   for validation

Documents are joined with an EOS token (⟂) and cut into full sequences; the incomplete last one is dropped. A sequence
may span documents. As in pretraining, only the EOS separates them (attention is not masked), and no token is padding.
A conversation ends as its chat template ends it. In plain text the model learns every token. In conversations it learns
only the answers (other labels are −100), and sequences without an answer are left out.

The validation split is 1% of the documents if they fill at least one sequence (running text counts in long pieces);
otherwise it is 1% of the sequences, at least one. The same source, tokenizer, length and seed give the same sequences
in the same order.

Prepared sequences are cached as Arrow files under `build/data` and memory-mapped. The cache of `datasets` receives only
the hub's downloads. Delete `build/data` to use a newer version of a hub dataset. Memory holds some thousand documents
at a time.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sharp_mobile import __version__
from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import create_directory
from sharp_mobile.text.chat_template import ChatTemplate
from sharp_mobile.text.conversation import IGNORED, check_template, encode_conversation
from sharp_mobile.text.sources import Conversation, Document, Text, read_documents, source_files
from sharp_mobile.text.tokens import check_known, evenly_spaced, unknown_token

DATA = Path("build/data")
HELD_OUT = 0.01  # the paper's 99/1
WARMUP_SHARE = 0.1  # the paper's share of the training data for Stage 1

Row = tuple[list[int], list[int]]  # input_ids and labels, equally long

_BATCH_CHARACTERS = 1_000_000
_BATCH_TOKENS = 1_000_000
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class TrainingData:
    """Training and validation sequences: columns `input_ids` and `labels`, int lists of the same length T."""

    train: Dataset
    validation: Dataset

    def warmup_windows(self, share: float = WARMUP_SHARE) -> torch.LongTensor:
        """A share of the training sequences for the warm-up, evenly spaced, at least one: int64 [windows, T]."""
        return _windows(self.train, max(1, int(share * len(self.train))))


def prepare_data(
    tokenizer: PreTrainedTokenizerBase,
    source: str | Path,
    length: int,
    *,
    held_out: float = HELD_OUT,
    seed: int = 0,
    work: Path = DATA,
) -> TrainingData:
    """Training and validation sequences of `length` tokens from a source (see `text.sources`).

    Check the length against the model first (`text.windows.check_length`).

    Args:
        held_out: the validation share.
        seed: the seed of the random validation split.
        work: the directory that caches the prepared sequences.

    Raises:
        SharpError: as `read_documents` and `encode_conversation`; the source is empty, is too short for two
            sequences, has no answer in any sequence, or is in a script that the tokenizer does not know.
    """
    directory = work / _key(tokenizer, source, length, held_out, seed)
    if not directory.is_dir():
        with create_directory(directory) as partial, tempfile.TemporaryDirectory(dir=partial) as scratch:
            documents = _write(Path(scratch, "documents.arrow"), _encode(tokenizer, source))
            train, validation = _split(documents, length, held_out, seed, Path(scratch), str(source))
            _write(partial / "train.arrow", _rows(train))
            _write(partial / "validation.arrow", _rows(validation))
    return TrainingData(*(Dataset.from_file(str(directory / f"{name}.arrow")) for name in ("train", "validation")))


def packed_windows(
    tokenizer: PreTrainedTokenizerBase, source: str | Path, length: int, count: int | None = None
) -> torch.LongTensor:
    """All documents of a source as windows, int64 [windows, length]; with `count`, that many evenly spaced ones.

    Raises:
        SharpError: as `prepare_data`; the source has fewer than `count` windows.
    """
    with tempfile.TemporaryDirectory() as scratch:
        documents = _write(Path(scratch, "documents.arrow"), _encode(tokenizer, source))
        sequences = _write(Path(scratch, "sequences.arrow"), _pack(_rows(documents), length))
        return _windows(sequences, count, tokens=sum(len(tokens) for tokens, _ in _rows(documents)), length=length)


def _windows(sequences: Dataset, count: int | None, tokens: int = 0, length: int = 0) -> torch.LongTensor:
    chosen = evenly_spaced(len(sequences), count, tokens, length)
    return torch.tensor(sequences.select(chosen.tolist())["input_ids"][:])  # type: ignore[return-value]


def _encode(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> Iterator[Row]:
    """Tokens and labels of each document."""
    documents = progress_bar(
        read_documents(source),
        desc=f"tokenize {source}",
        unit="document",
    )
    tokens = unknown = 0
    with ChatTemplate(tokenizer) as template:
        for batch in _batches(documents):
            for row in _encode_batch(template, batch):
                tokens += len(row[0])
                unknown += row[0].count(unknown_token(tokenizer))
                yield row
    if not tokens:
        raise SharpError(f"{source}: holds no text; name a source that does")
    check_known(tokenizer, unknown, tokens, str(source))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about `_BATCH_CHARACTERS`."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        contents = [document.text] if isinstance(document, Text) else [m["content"] for m in document.messages]
        characters += sum(map(len, contents))
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_batch(template: ChatTemplate, batch: list[Document]) -> Iterator[Row]:
    tokenizer = template.tokenizer
    texts = [document.text for document in batch if isinstance(document, Text)]
    encoded = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else [])
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for document in batch:
        if isinstance(document, Conversation):
            check_template(tokenizer)
            yield encode_conversation(template, document)
        else:
            tokens = next(encoded) + (eos if document.ends else [])
            yield tokens, tokens


def _split(
    documents: Dataset, length: int, held_out: float, seed: int, scratch: Path, source: str
) -> tuple[Dataset, Dataset]:
    """Training and validation sequences, split by document if that gives at least one validation sequence."""
    train, validation = _random_split(documents, int(held_out * len(documents)), seed)
    if len(validation):
        held = _write(scratch / "held.arrow", _trainable(_pack(_rows(validation), length)))
        rest = _write(scratch / "rest.arrow", _trainable(_pack(_rows(train), length)))
        if len(held) and len(rest):
            return rest, held
    sequences = _write(scratch / "sequences.arrow", _trainable(_pack(_rows(documents), length)))
    if len(sequences) < 2:
        tokens = sum(len(tokens) for tokens, _ in _rows(documents))
        raise SharpError(
            f"{source}: its {tokens} tokens give {len(sequences)} sequences of {length} with something to learn; one "
            "for training and one for validation are needed: take more text or a shorter length"
        )
    return _random_split(sequences, max(1, round(held_out * len(sequences))), seed)


def _random_split(rows: Dataset, count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split off `count` random rows; both parts retain the order."""
    held = np.zeros(len(rows), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(rows))[:count]] = True
    return rows.select(np.flatnonzero(~held)), rows.select(np.flatnonzero(held))


def _pack(rows: Iterable[Row], length: int) -> Iterator[Row]:
    """Concatenate rows and cut them into rows of `length` tokens."""
    tokens: list[int] = []
    labels: list[int] = []
    for more_tokens, more_labels in rows:
        tokens, labels = tokens + more_tokens, labels + more_labels
        full = len(tokens) - len(tokens) % length
        for start in range(0, full, length):
            yield tokens[start : start + length], labels[start : start + length]
        tokens, labels = tokens[full:], labels[full:]


def _trainable(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with a token to predict; the first token of a sequence is not predicted."""
    return (row for row in rows if any(label != IGNORED for label in row[1][1:]))


def _rows(dataset: Dataset) -> Iterator[Row]:
    return ((row["input_ids"], row["labels"]) for row in dataset)


def _write(path: Path, rows: Iterable[Row]) -> Dataset:
    """Write rows to an Arrow file and memory-map it."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as file:
        batch: list[Row] = []
        tokens = 0
        for row in rows:
            batch.append(row)
            tokens += len(row[0])
            if tokens >= _BATCH_TOKENS:
                file.write_batch(_record_batch(batch))
                batch, tokens = [], 0
        file.write_batch(_record_batch(batch))
    return Dataset.from_file(str(path))


def _record_batch(rows: list[Row]) -> pa.RecordBatch:
    columns = ([tokens for tokens, _ in rows], [labels for _, labels in rows])
    return pa.record_batch([pa.array(column, type=pa.list_(pa.int32())) for column in columns], schema=_SCHEMA)


def _key(tokenizer: PreTrainedTokenizerBase, source: str | Path, length: int, held_out: float, seed: int) -> str:
    """A directory name for the inputs of the sequences: files by size and time, a hub dataset by its name."""
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in source_files(source)]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = tokenizer.get_vocab() if backend is None else backend.to_str()
    words = [vocabulary, tokenizer.chat_template, tokenizer.eos_token, tokenizer.unk_token]
    settings = [files or str(source), words, length, held_out, seed, __version__]
    name = Path(str(source).replace(":", "-")).name
    return f"{name}-{length}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}"
