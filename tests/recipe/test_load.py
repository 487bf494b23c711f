"""Recipes: the shipped ones load, and whatever is wrong in one is told in a line that names it."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_config

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.load import load_recipe, recipe_files, recipe_name, setting_sections
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.plan_budget import PlanBudget, is_auto
from sharp_mobile.recipe.settings import Recipe


def write(directory: Path, text: str) -> str:
    path = directory / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipe_files())
def test_every_shipped_recipe_loads_and_its_plan_parses(name: str) -> None:
    recipe = load_recipe(name)
    recipe.check_exportable()
    if is_auto(recipe.plan):
        assert PlanBudget.parse(recipe.plan).amount < 1
    else:
        assert SharePlan.parse(recipe.plan, 30).is_none == (name == "smollm2-135m-unshared")
    first_line = recipe_files()[name].read_text().splitlines()[0]
    assert first_line == f"# sharp-mobile export {name}"


def test_the_project_ships_the_default_the_benchmark_and_the_unshared_recipe() -> None:
    assert {"smollm2-135m", "smollm2-135m-t_next", "smollm2-135m-unshared"} <= set(recipe_files())
    assert load_recipe("smollm2-135m-t_next").plan == "t_next"


def test_a_recipe_needs_only_a_model(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "model: models/mine\n"))
    assert recipe == Recipe(model="models/mine")
    assert (recipe.plan, recipe.recovery.rank, recipe.quantize.linear) == ("none", 64, 4)


def test_a_model_without_a_recipe_gets_the_defaults_and_shares_nothing(tmp_path: Path) -> None:
    for model in ("smollm2-135m-instruct", str(tmp_path), "meta-llama/Llama-3.2-1B"):
        assert load_recipe(model) == Recipe(model=model)


def test_recovery_parameters_by_layer(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model: smollm2-135m-instruct\n"
        "recovery:\n  rank: 32\n  adapters: 8\n"
        "  layers:\n    '4-5': {rank: [0, 32, 64]}\n    '6': {reference: false, neurons: 96, bypass: 160}\n"
    )
    chosen = load_recipe(str(recipe)).recovery.recoveries(SharePlan.parse("3:4-7", 9))
    assert [str(chosen[layer]) for layer in range(9)] == [
        *["lora rank 8"] * 3,
        *["lora ranks 0/32/64"] * 2,
        "no reference + 96 own neurons + bypass rank 160",
        "lora rank 32",
        *["lora rank 8"] * 2,
    ]


def test_a_rank_is_one_number_or_three() -> None:
    assert load_recipe("smollm2-135m", rank="32/32/96").recovery.rank == (32, 32, 96)
    assert load_recipe("smollm2-135m", rank=None).recovery.rank == 64
    dropped = load_recipe("smollm2-135m-t_next", reference="false", bypass=96).recovery
    assert str(dropped.recoveries(SharePlan.parse("3:4", 9))[3]) == "no reference + bypass rank 96"
    with pytest.raises(SharpError, match="rank 24 with 4-bit recovery parameters must be a multiple of 32; use 32"):
        load_recipe("smollm2-135m", rank="32/24/96", recovery=4)


def test_no_two_sections_have_a_setting_of_the_same_name() -> None:
    """An option of the command names a setting without its section."""
    sections = [field.annotation for field in Recipe.model_fields.values()]
    names = [name for section in sections if hasattr(section, "model_fields") for name in section.model_fields]
    assert len(names) == len(set(names))


def test_the_recovery_of_a_recipe_must_fit_its_plan(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="leaves no MLP"):
        load_recipe("smollm2-135m", reference=False)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: smollm2-135m-instruct\nrecovery: {layers: {'4-12': {rank: 32}}}\n")
    with pytest.raises(SharpError, match="'4-12' must name layers between 1 and 9"):
        load_recipe(str(recipe)).recovery.recoveries(SharePlan.parse("3:4", 9))


def test_a_recipe_in_the_working_directory_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "export").mkdir()
    write(tmp_path / "export", "model: a/b\n")
    monkeypatch.chdir(tmp_path)
    assert str(load_recipe("mine").model) == "a/b"
    assert "smollm2-135m" in recipe_files()


def test_overrides_win_over_the_file_and_none_leaves_it(tmp_path: Path) -> None:
    path = write(tmp_path, "model: a/b\nplan: t_next\nrecovery: {rank: 32}\nlower: {max_length: 512}\n")
    recipe = load_recipe(
        path, plan="t_max", rank=96, max_length=None, attention="portable", **{"quantize.recovery": "4"}
    )
    assert (recipe.plan, recipe.recovery.rank, recipe.quantize.recovery) == ("t_max", 96, 4)
    assert (recipe.lower.max_length, recipe.lower.attention) == (512, "portable")


def test_several_settings_of_a_section_come_as_a_dictionary() -> None:
    recipe = load_recipe("smollm2-135m", recovery={"rank": 96, "neurons": 4}, quantize={"recovery": 8}, max_length=512)
    assert (recipe.recovery.rank, recipe.recovery.neurons, recipe.quantize.recovery) == (96, 4, 8)
    assert recipe == load_recipe("smollm2-135m", rank=96, neurons=4, max_length=512)
    with pytest.raises(SharpError, match=r"^recovery\.rnk is not a setting of a recipe; choose from form, rank"):
        load_recipe("smollm2-135m", recovery={"rnk": 96})


def test_every_setting_has_a_path_and_a_short_name_while_one_section_alone_has_it() -> None:
    for name, sections in setting_sections().items():
        values = [f"{section}.{name}" for section in sections]
        for path in values:
            with suppress(SharpError):  # a value of another type is another test's
                load_recipe("a/b", **{path: "4"})
        if len(sections) > 1:
            with pytest.raises(
                SharpError, match=f"{name} is a setting of several sections; write {' or '.join(values)}"
            ):
                load_recipe("a/b", **{name: 4})
        else:
            assert load_recipe("a/b", **{name: None}) == load_recipe("a/b")
    assert {name for name, sections in setting_sections().items() if len(sections) > 1} == set()


@pytest.mark.parametrize("name", ["ranks", "quantize.rank", "nothing.rank", "quantize.", ".rank", "a.b.c", ""])
def test_an_override_that_is_no_setting_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(SharpError, match=f"{name} is not a setting of a recipe; choose from form, rank, neurons"):
        load_recipe("smollm2-135m", **{name: 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan: t_next", "mine.yaml: model: is missing"),
        ("model: a/b\nplans: x", "mine.yaml: plans: no such field; choose from model, plan, share, recovery"),
        ("model: a/b\nquantize: {bits: 4}", "mine.yaml: quantize.bits: no such field; choose from linear, group_size"),
        ("model: a/b\nrecovery: {rank: -1}", "mine.yaml: recovery.rank: a rank is a whole number ≥ 0"),
        (
            "model: a/b\nrecovery: {rank: 1.5}",
            "mine.yaml: recovery.rank: a rank is a whole number ≥ 0, or three of them",
        ),
        ("model: a/b\nrecovery: {rank: yes}", "mine.yaml: recovery.rank: a rank is a whole number ≥ 0"),
        ("model: a/b\nrecovery: {form: lore}", "mine.yaml: recovery.form: Input should be 'lora', 'right'"),
        ("model: a/b\nrecovery: 64", "mine.yaml: recovery: Input should be a valid dictionary"),
        ("model: a/b\nquantize: {linear: 5}", "mine.yaml: quantize.linear: Input should be 4, 8 or 'float', not 5"),
        ("model: a/b\nquantize: {group_size: 48}", "mine.yaml: quantize.group_size: Input should be 32, 64 or 128"),
        ("model: a/b\nlower: {max_length: 1}", "mine.yaml: lower.max_length: Input should be greater than or equal"),
        (
            "model: a/b\nrecovery: {rank: 56}\nquantize: {recovery: 4}",
            "mine.yaml: rank 56 with 4-bit recovery parameters must be a multiple of 32; use 64, or quantize.recovery",
        ),
        ("model: a/b\nplan: none\nplan: t_next", "mine.yaml: line 3: 'plan' is written twice"),
        ("model: a/b\nplan: 3:4", "mine.yaml: plan: Input should be a valid string (put it in quotes"),
        ("model: a/b\n? [1, 2]\n: 3", "mine.yaml: line 2: found unhashable key"),
        ("model: [a/b", "mine.yaml: line 1: expected"),
        ("model: !!python/object/apply:os.system [id]", "mine.yaml: line 1: could not determine a constructor"),
        ("- a\n- b", "mine.yaml: must hold fields such as `model: smollm2-135m-instruct`"),
        ("", "mine.yaml: must hold fields"),
        ("4: a", "mine.yaml: keywords must be strings; field names are words"),
        ("model: a/b\nrecovery: {.rank: 4}", "mine.yaml: recovery..rank: no such field; choose from"),
        ('model: a/b\n"a\\nb": 4', "mine.yaml: a b: no such field; choose from model"),
        ("model: a/b\nrecovery: {4: a}", "mine.yaml: recovery"),
        ("a: &a [1, 2]\nb: &b [*a, *a]\nmodel: *b", "mine.yaml: line 2: aliases are not supported: write out what *a"),
        ("model: &m a/b\nplan: *m", "mine.yaml: line 2: aliases are not supported"),
        ("base: &b {rank: 4}\nrecovery:\n  <<: *b", "mine.yaml: line 3: aliases are not supported"),
        ("model: &m [*m]", "mine.yaml: line 1: aliases are not supported"),
        ("model: " + "[" * 100_000, "mine.yaml: line 1: is nested more than 20 deep"),
        ("{a: " * 5000, "mine.yaml: line 1: is nested more than 20 deep"),
        ("- " * 5000, "mine.yaml: line 1: is nested more than 20 deep"),
        ("model: " + "x" * 20_000, "mine.yaml: line 1: a value has 20000 characters; the limit is 10000"),
        (f"model: a/b\nrecovery: {{rank: {10**400}}}", "mine.yaml: line 2: a number has more than 18 digits"),
        ("model: a/b\nrecovery: {rank: " + "9" * 5000 + "}", "mine.yaml: is not YAML (Exceeds the limit"),
        ("model: a/b\nlower: {max_length: 0x" + "f" * 5000 + "}", "mine.yaml: line 2: a number has more"),
        ("model: 2024-13-45", "mine.yaml: is not YAML (month must be in 1..12)"),
        ("model: 2024-12-24", "mine.yaml: model: Input should be a valid string"),
        ("model: !!bool perhaps", "mine.yaml: is not YAML ("),
        ("model: !!int ''", "mine.yaml: is not YAML ("),
        ("model: !!binary =", "mine.yaml: "),
        ("model: a/b\n" + "".join(f"k{i}: 1\n" for i in range(5_000)), "mine.yaml: k0: no such field"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SharpError) as error:
        load_recipe(write(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_is_a_small_file(tmp_path: Path) -> None:
    big, pipe, directory = tmp_path / "big.yaml", tmp_path / "pipe.yaml", tmp_path / "directory.yaml"
    big.write_text("model: a/b\n" + "# comment\n" * 150_000)
    with pytest.raises(SharpError, match=r"big\.yaml: is larger than 1,000,000 bytes, so it is not a recipe"):
        load_recipe(str(big))
    os.mkfifo(pipe)
    directory.mkdir()
    for path in (pipe, directory):
        with pytest.raises(SharpError, match=rf"{path.name}: is not a file"):
            load_recipe(str(path))
    (tmp_path / "latin.yaml").write_bytes("model: é".encode("latin-1"))
    with pytest.raises(SharpError, match=r"latin\.yaml: is not YAML \('utf-8' codec"):
        load_recipe(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-that-name/model", "a\0b", "~nobody-of-that-name/mine.yaml"])
def test_a_name_that_no_file_can_have_is_told(name: str) -> None:
    with pytest.raises(SharpError):
        load_recipe(name)


VALID = """# sharp-mobile export mine
model: smollm2-135m-instruct
plan: '3:4-7'
recovery: {rank: 32, layers: {'4-5': {rank: [0, 32, 64]}}}
warmup: {text: sotu:1950-2004, window: 256, adam_lr: 1e-3}
quantize: {linear: 4, lm_head: 8, group_size: 32}
lower: {max_length: 512, attention: portable}
"""
PIECES = ["&a ", "*a", "!!int ", "!!binary ", "<<: ", "? ", "- ", "[", "]", "{", "}", ": ", "'", "|\n", "\t", "9" * 30]
PIECES += [
    "-1",
    "1e999",
    ".nan",
    ".inf",
    "~",
    "yes",
    "2024-01-01",
    "1:2:3",
    "0x1f",
    "\0",
    "\ufeff",
    "%YAML 9.9\n---\n",
    "\n",
]

SHARES_DIRECTORY = [HealthCheck.function_scoped_fixture]


@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=SHARES_DIRECTORY)
@given(data=st.data())
def test_a_mutated_recipe_loads_or_is_told_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    text = VALID
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))) + text[end:]
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    told = ""
    try:
        load_recipe(str(path))
    except SharpError as error:
        told = str(error)
    assert "\n" not in told


def test_a_recipe_that_is_not_there_and_a_name_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"none\.yaml: cannot be read: No such file"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(SharpError, match=r"smolm: no recipe.*recipes are .*smollm2-135m, .*smollm2-135m-unshared"):
        load_recipe("smolm")


def test_hadamard_trains_but_is_not_exported() -> None:
    recipe = load_recipe("smollm2-135m", form="hadamard")
    with pytest.raises(SharpError, match=r"hadamard cannot be exported, because it builds a full weight"):
        recipe.check_exportable()


def test_groups_and_lengths_must_fit_the_model() -> None:
    config = architecture_of(tiny_config("llama").to_dict())  # hidden 64, MLP 96, 128 positions
    load_recipe("a/b", max_length=128).check_fits(config)
    with pytest.raises(SharpError, match=r"group_size: 64 does not divide the model's MLP width of 96; use .*32"):
        load_recipe("a/b", max_length=128, group_size=64).check_fits(config)
    load_recipe("a/b", max_length=128, group_size=64, linear=8).check_fits(config)
    with pytest.raises(SharpError, match=r"max_length: 2048 is beyond the model's 128 positions"):
        load_recipe("a/b").check_fits(config)


def test_names_for_files_and_reports(tmp_path: Path) -> None:
    assert recipe_name("smollm2-135m") == "smollm2-135m"
    assert recipe_name(str(tmp_path / "mine.yaml")) == "mine"
    assert recipe_name("meta-llama/Llama-3.2-1B") == "Llama-3.2-1B"
    assert recipe_name("models/m.Q4_0.gguf") == "m.Q4_0"


def test_the_papers_warm_up_can_be_written(tmp_path: Path) -> None:
    adam = "method: adam, adam_epochs: 5, adam_lr: 1e-3, adam_batch: 512"
    warmup = f"warmup: {{{adam}, inputs: original, weighted: false, workers: 2}}"
    section = load_recipe(write(tmp_path, f"model: models/mine\n{warmup}\n")).warmup
    assert (section.method, section.inputs, section.weighted, section.adam_lr) == ("adam", "original", False, 1e-3)
    assert (section.adam_epochs, section.adam_batch, section.workers) == (5, 512, 2)


def test_weights_are_rounded_by_text_wherever_that_is_possible(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "model: a/b\n"))
    assert recipe.rounds_to_text(tokenizer=True)
    assert not recipe.rounds_to_text(tokenizer=False)
    for without in ({"rounding": "nearest"}, {"quantization_aware": True}, {"linear": 8}, {"linear": "float"}):
        assert not load_recipe(write(tmp_path, "model: a/b\n"), **without).rounds_to_text(tokenizer=True)
    assert load_recipe(write(tmp_path, "model: a/b\nquantize: {rounding: gptq}\n")).rounds_to_text(tokenizer=False)


@pytest.mark.parametrize("name", recipe_files())
def test_the_shipped_recipes_are_rounded_as_they_were_measured(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.rounds_to_text(tokenizer=True) == (name != "smollm2-135m-s62")
    assert (recipe.quantize.lm_head, recipe.quantize.eight_bit_budget) == (8, 0.05)


def test_an_old_name_is_answered_with_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(SharpError) as error:
        load_recipe(write(tmp_path, "model: a/b\nquantize: {fragile: 0.09}\n"))
    assert str(error.value).endswith("mine.yaml: quantize.fragile: is called eight_bit_budget now; rename it")
    for name in ("fragile", "quantize.fragile"):
        with pytest.raises(SharpError, match=f"^{name}: is called eight_bit_budget now; rename it$"):
            load_recipe("a/b", **{name: "0.09"})


WRONG_VALUES = {
    "finetune": {
        "epochs: -1": "epochs: Input should be greater than or equal to 0, not -1",
        "epochs: .inf": "epochs: Input should be a finite number",
        "max_steps: -3": "max_steps: Input should be greater than or equal to 0",
        "distillation: 1.5": "distillation: Input should be less than or equal to 1, not 1.5",
        "distillation: -0.1": "distillation: Input should be greater than or equal to 0",
        "learning_rate: 0": "learning_rate: Input should be greater than 0, not 0",
        "learning_rate: .nan": "learning_rate: Input should be a finite number",
        "learning_rate: .inf": "learning_rate: Input should be a finite number",
        "warmup_ratio: 1": "warmup_ratio: Input should be less than 1",
        "warmup_ratio: -0.5": "warmup_ratio: Input should be greater than or equal to 0",
        "schedule: step": "schedule: Input should be 'cosine', 'linear' or 'constant'",
        "weight_decay: -1": "weight_decay: Input should be greater than or equal to 0",
        "max_grad_norm: -1": "max_grad_norm: Input should be greater than or equal to 0",
        "batch_size: 0": "batch_size: Input should be greater than or equal to 1",
        "micro_batch: 0": "micro_batch: Input should be greater than or equal to 1",
        "seed: -1": "seed: Input should be greater than or equal to 0",
        "seed: 4294967296": "seed: Input should be less than or equal to 4294967295",
        "precision: float16": "precision: Input should be 'auto', 'float32' or 'bfloat16'",
        "log_every: 0": "log_every: Input should be greater than or equal to 1",
        "save_every: 0": "save_every: Input should be greater than or equal to 1",
        "evaluate_every: 0": "evaluate_every: Input should be greater than or equal to 1",
        "keep: 0": "keep: Input should be greater than or equal to 1",
        "length: 1": "length: Input should be greater than or equal to 2",
        "validation_windows: 0": "validation_windows: Input should be greater than or equal to 1",
        "batch_size: 4, micro_batch: 3": "batch_size: 4 must be a multiple of micro_batch x processes = 3 x 1; use 6",
        "max_steps: 9, keep_best: true": "keep_best compares evaluations; set evaluate_every",
        "max_steps: 9, keep_best: true, evaluate_every: 10": "there is none in 9 steps; use evaluate_every: 9 or less",
    },
    "warmup": {
        "window: 1": "window: Input should be greater than or equal to 2",
        "windows: 0": "windows: Input should be greater than or equal to 1",
        "method: sgd": "method: Input should be 'closed_form', 'adam' or 'closed_form_adam'",
        "inputs: both": "inputs: Input should be 'sequential' or 'original'",
        "adam_epochs: 0": "adam_epochs: Input should be greater than or equal to 1",
        "adam_lr: 0": "adam_lr: Input should be greater than 0",
        "adam_lr: .nan": "adam_lr: Input should be a finite number",
        "adam_batch: 0": "adam_batch: Input should be greater than or equal to 1",
        "workers: 0": "workers: Input should be greater than or equal to 1",
        "workers: 2": "workers cannot share targets that are fitted one after the other; use inputs: original, or",
    },
    "quantize": {
        "eight_bit_budget: -0.1": "eight_bit_budget: Input should be greater than or equal to 0",
        "eight_bit_budget: 1.5": "eight_bit_budget: Input should be less than or equal to 1",
        "eight_bit_budget: .nan": "eight_bit_budget: Input should be a finite number",
    },
    "recovery": {
        "neurons: -1": "neurons: Input should be greater than or equal to 0",
        "bypass: -1": "bypass: Input should be greater than or equal to 0",
        "adapters: -1": "adapters: Input should be greater than or equal to 0",
        "reference: false": "without the reference",
    },
    "auto": {
        "auto_windows: 3": "auto_windows: Input should be greater than or equal to 4",
        "reach: 9": "reach: Input should be less than or equal to 8",
    },
    "lower": {"prefill_chunk: 1": "prefill_chunk: Input should be greater than or equal to 2"},
}


@pytest.mark.parametrize(
    ("section", "setting", "says"),
    [(section, setting, says) for section, cases in WRONG_VALUES.items() for setting, says in cases.items()],
)
def test_a_wrong_value_is_refused_when_the_recipe_is_read(
    tmp_path: Path, section: str, setting: str, says: str
) -> None:
    with pytest.raises(SharpError) as error:
        load_recipe(write(tmp_path, f"model: a/b\n{section}: {{{setting}}}\n"))
    message = str(error.value)
    assert f"mine.yaml: {section}" in message or "mine.yaml: recovery " in message
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recovery: {quantization_aware: true}\nquantize: {rounding: gptq}", "exclude each other; leave one out"),
        (
            "recovery: {quantization_aware: true}\nwarmup: {inputs: original}",
            "warmup.inputs: original inputs cannot be quantization-aware; use sequential",
        ),
        (
            "recovery: {quantization_aware: true}\nfinetune: {max_steps: 9, shard: true, distillation: 0.5}",
            "finetune.shard: the original cannot teach in float where split weights are quantization-aware",
        ),
        ("plan: auto 12 parsecs", "plan 'auto 12 parsecs': name a budget, such as 'auto s=0.62'"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_when_the_recipe_is_read(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(SharpError) as error:
        load_recipe(write(tmp_path, f"model: a/b\n{text}\n"))
    assert str(error.value).startswith(str(tmp_path / "mine.yaml: "))
    assert says in str(error.value)


def test_fine_tuning_of_a_recipe_is_switched_off_by_no_steps() -> None:
    assert load_recipe("smollm2-135m-s62").finetune.is_on
    assert not load_recipe("smollm2-135m-s62", max_steps=0).finetune.is_on
