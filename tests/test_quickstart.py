"""The quickstart, shortened: every stage runs and the page shows its numbers."""

import pathlib
import re

import pytest

from spherekeras import quickstart as module
from spherekeras.errors import DataError


def test_other_files_are_never_deleted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"holds other files. Give a new folder with `--out`"):
        module.quickstart(tmp_path)
    assert (tmp_path / "run" / "mine.txt").read_text() == "precious"


def test_a_short_quickstart_leaves_a_preset_exports_and_a_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = module._RECIPE.read_text()
    for old, new in (
        ("steps = 120", "steps = 16"),
        ("checkpoint_steps = 20", "checkpoint_steps = 8"),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    (tmp_path / "quickstart.toml").write_text(recipe)
    monkeypatch.setattr(module, "_RECIPE", tmp_path / "quickstart.toml")
    monkeypatch.setattr(module, "PEOPLE", 24)
    monkeypatch.setattr(module, "STRANGERS", 10)
    said: list[str] = []
    page = module.quickstart(tmp_path / "out", said.append)
    html = page.read_text(encoding="utf-8")
    auc = float(re.search(r"AUC ([0-9.]+)\.", said[-1])[1])
    assert 0.6 < auc <= 1 and f"{auc:.2f}"[:3] in html
    assert {p.name for p in (tmp_path / "out" / "export").iterdir()} == {
        "float32.tflite",
        "float16.tflite",
        "dynamic.tflite",
        "float32.onnx",
    }
    assert (tmp_path / "out" / "run" / "preset" / "SHA256SUMS").is_file()
    assert html.count(">pass<") == 4
    assert not re.search(r"(src|href)=.https?:", html)
