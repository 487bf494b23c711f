"""What a source says of its model without its weights: neither PyTorch nor transformers is needed.

config.json (of a directory, a hub repository, an architecture without weights)  ─┐
header of a GGUF file                                                            ─┴─► Architecture
sharp.json                                                                       ───► plan, recovery parameters
"""

from sharp_mobile.checkpoint.config import CONFIG_JSON, architecture_of, config_file, read_architecture
from sharp_mobile.checkpoint.gguf_fields import gguf_fields
from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.checkpoint.locate import locate, quiet_hub
from sharp_mobile.checkpoint.other_formats import TELLING_FILES
from sharp_mobile.checkpoint.shapes import shape_file
from sharp_mobile.checkpoint.tokenizer_files import GGUF_TOKENS, TOKENIZER_FILES, has_tokenizer
from sharp_mobile.console import warn
from sharp_mobile.errors import prefixed
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.model.planned import ModelDescription, PlannedModel, plan_model
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import SHARP_JSON, check_undamaged, read_sharing
from sharp_mobile.recipe.source import Source


def describe_model(source: Source | str) -> ModelDescription:
    """The model of anything that `open_checkpoint` opens, from its configuration alone.

    Of a hub repository only the configuration and the tokenizer are downloaded. Whether the LM head is tied is what the
    configuration says.

    Raises:
        SharpError: nothing is there, or it is of a model that is not supported.
    """
    source = Source.of(source)
    name = source.name
    if source.kind == "random":
        path = shape_file(source)
        return ModelDescription(name, path, read_architecture(path))
    with quiet_hub():
        path = locate(source, [CONFIG_JSON, SHARP_JSON, *TOKENIZER_FILES, *TELLING_FILES])
    if path.is_file():
        header = gguf_header(path)
        fields = gguf_fields(header)
        with prefixed(path):
            architecture = architecture_of(fields)
        return ModelDescription(name, path, architecture, tokenizer=GGUF_TOKENS in header.metadata)
    if not is_regular_file(path / SHARP_JSON):
        return ModelDescription(name, path, read_architecture(config_file(path)), tokenizer=has_tokenizer(path))
    check_undamaged(path, CONFIG_JSON)
    architecture = read_architecture(config_file(path))
    plan, recovery = read_sharing(path / SHARP_JSON, architecture.layers)
    return ModelDescription(name, path, architecture, plan, recovery, has_tokenizer(path))


def plan_source(recipe: Recipe) -> PlannedModel:
    """How a recipe's model shares by its plan, which is written out or a preset; lengths are cut to the model's.

    Raises:
        SharpError: as `describe_model` and `plan_model`.
    """
    for line in recipe.without_effect():
        warn(line)
    model = describe_model(recipe.model)
    return plan_model(recipe.fitted_to(model.architecture), model)
