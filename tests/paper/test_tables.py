"""The tables as data: every row has the paper's columns, and a table says what nothing shared comes to."""

import pytest

from sharp_mobile.paper.tables import ORIGINAL, TABLES, Row, Table
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery


@pytest.mark.parametrize("name", TABLES)
def test_a_row_has_a_number_for_every_data_set_or_none_at_all(name: str) -> None:
    table = TABLES[name]
    assert name == f"table{table.number}"
    for row in table.rows:
        assert len(row.paper) in (0, len(table.datasets)), row


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_the_original_and_a_control_that_shares_nothing(name: str) -> None:
    rows = TABLES[name].rows
    assert rows[0].variant == ORIGINAL
    shared = {row.variant.plan for row in rows if row.variant.method == "share"} - {"none"}
    dropped = {row.variant.plan for row in rows if row.variant.method == "drop" and not row.variant.finetune}
    own = {(row.variant.plan, row.variant.finetune) for row in rows if not row.variant.reference}
    assert dropped == shared
    assert own == {(plan, finetune) for plan in shared for finetune in (0, 1)}


@pytest.mark.parametrize("name", TABLES)
def test_no_row_stands_twice(name: str) -> None:
    rows = TABLES[name].rows
    assert len({(row.method, row.type, row.variant) for row in rows}) == len(rows) - _repeated_direct_shares(rows)


def _repeated_direct_shares(rows: tuple[Row, ...]) -> int:
    """The paper repeats the direct share at every rank of Table 3."""
    direct = [(row.method, row.type) for row in rows if row.method == "Direct Sharing"]
    return len(direct) - len(set(direct))


@pytest.mark.parametrize("name", TABLES)
def test_the_printed_compression_ratios_are_those_of_the_plans(name: str) -> None:
    """At Llama-2-7B's size, but for the paper's t_more, which stores 9 layers and not the 8 that it says."""
    table: Table = TABLES[name]
    for row in table.rows:
        variant = row.variant
        if row.type == "t_more" or not row.s or variant == ORIGINAL:
            continue
        plan = SharePlan.parse(variant.plan, 32)
        rank = variant.rank or (400 if "62%" in row.s or "46%" in row.s else 0)
        recovery = len(plan.targets) * Recovery("lora", rank).parameters(4096, 11008)
        ratio = plan.stored_ratio if row.s.startswith("τ") else plan.compression_ratio(4096, 11008, recovery)
        assert float(row.s.strip("τ %")) == pytest.approx(100 * ratio, abs=1), row
