"""The ablation's page against what was measured, and its rows against the recipes of today."""

import csv
import pathlib
import re
import runpy

import pytest

from spherekeras.recipe import load_recipe
from spherekeras.training import check_model

ROOT = pathlib.Path(__file__).resolve().parent.parent
ABLATION = runpy.run_path(str(ROOT / "benchmarks" / "ablation.py"))
ROWS = list(csv.DictReader((ROOT / "benchmarks" / "ablation.csv").read_text().splitlines()))


def test_the_page_has_every_row_as_measured_and_no_other() -> None:
    page = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| .+ \| 0\.\d+ .*$", page, re.MULTILINE)
    assert sorted(shown) == sorted(ABLATION["line"](row) for row in ROWS)
    assert len(ROWS) >= 6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["variant"])
def test_every_row_is_of_the_recipe_of_today(row: dict[str, str], tmp_path: pathlib.Path) -> None:
    assert row["recipe"] == ABLATION["digest"](row["variant"])
    (tmp_path / "variant.toml").write_text(ABLATION["recipe"](row["variant"]))
    plan = load_recipe(tmp_path / "variant.toml")
    check_model(plan)
    _, depth, head, _ = ABLATION["VARIANTS"][row["variant"]]
    assert (plan.training.steps, plan.backbone.depth) == (int(row["steps"]), depth)
    assert f'"{plan.head.name}"' in head
