"""An opened checkpoint: a model, its tokenizer, and what is known of where they come from."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.checkpoint.config_check import token_ids
from sharp_mobile.checkpoint.tokenizer import write_tokenizer
from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.model.families import Family, family_of
from sharp_mobile.model.planned import ModelDescription
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        name: a short name for files and reports.
        source: what the user gave.
        path: the directory or the GGUF file that was read.
        model: the Hugging Face causal language model, in eval mode, frozen; shared already if it is a SHARP checkpoint.
        fingerprint: 16 hexadecimal digits; the same for the same configuration and weight files, wherever they lie.
        plan, recovery: of a SHARP checkpoint, else None.
        random: the weights are random numbers, so there is nothing to recover.
        warnings: what the user should know, a line each.
    """

    name: str
    source: str
    path: Path
    model: PreTrainedModel
    fingerprint: str
    plan: SharePlan | None = None
    recovery: Recoveries | None = None
    warnings: tuple[str, ...] = ()
    random: bool = False
    _tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def architecture(self) -> Architecture:
        """What its configuration says."""
        return architecture_of(self.config.to_dict())

    @property
    def description(self) -> ModelDescription:
        """All that is known of it without its weights."""
        tokenizer = self._tokenizer is not None
        return ModelDescription(self.name, self.path, self.architecture, self.plan, self.recovery, tokenizer)

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.config.model_type)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that came with the weights, or None."""
        return self._tokenizer

    def tokenizer_for(self, purpose: str) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            SharpError: there is none, and `purpose` ("plan auto", "fine-tuning") reads text.
        """
        if self._tokenizer is None:
            raise SharpError(f"{self.path}: {purpose} reads text, and there is no tokenizer; add tokenizer.json")
        return self._tokenizer

    def write_tokenizer(self, directory: Path) -> None:
        """Write the tokenizer's files, its chat template among them; nothing if there is no tokenizer."""
        if self._tokenizer is not None:
            write_tokenizer(self._tokenizer, self.path, directory)

    @property
    def eos_token_ids(self) -> list[int]:
        """The tokens that end a text: those of generation_config.json, of config.json and of the tokenizer."""
        ids: list[int] = []
        for source in (self.model.generation_config, self.config, self._tokenizer):
            ids += self._token_ids(source, "eos_token_id")
        return list(dict.fromkeys(ids))

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, or None."""
        for source in (self.model.generation_config, self.config, self._tokenizer):
            if ids := self._token_ids(source, "bos_token_id"):
                return ids[0]
        return None

    def _token_ids(self, source: object, name: str) -> list[int]:
        field = f"{self.path}: {name} of its {type(source).__name__}"
        return token_ids(getattr(source, name, None), self.config.vocab_size, field)
