"""The table of other seeds against what was measured, and its rows against the zoo of today."""

import csv
import pathlib
import re
import runpy

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = runpy.run_path(str(ROOT / "benchmarks" / "seeds.py"))
ROWS = list(csv.DictReader((ROOT / "benchmarks" / "seeds.csv").read_text().splitlines()))


def test_the_page_has_every_row_as_measured_and_no_other() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `\w+` \| \d+\.\d+ % \(.*$", page, re.MULTILINE)
    assert shown == [SEEDS["line"](row) for row in ROWS]
    assert ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["preset"])
def test_every_row_is_of_the_recipe_and_the_card_of_today(row: dict[str, str]) -> None:
    recipe = (ROOT / "zoo" / row["preset"] / "recipe.toml").read_text(encoding="utf-8")
    assert row["recipe"] == SEEDS["digest"](recipe)
    card = SEEDS["stated"](row["preset"])
    low, high = card["intervals"]["accuracy"]
    keys = ("stated", "stated_low", "stated_high")
    assert [float(row[key]) for key in keys] == pytest.approx(
        [card["accuracy"], low, high], abs=1e-4
    )
    assert row["within"] == str(low <= float(row["lfw_view_2"]) <= high)
