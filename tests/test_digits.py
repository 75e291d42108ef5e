"""The digits example: its parts against known answers, and its claims against its figures."""

import csv
import importlib.util
import pathlib
import sys
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    pytest.importorskip("matplotlib", reason="the example draws with matplotlib")
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    spec = importlib.util.spec_from_file_location("digits_example", EXAMPLES / "digits.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str, int], dict[str, float]]:
    with open(EXAMPLES / "digits.csv", newline="", encoding="utf-8") as file:
        return {
            (row.pop("head"), row.pop("m"), int(row.pop("dim"))): {
                key: float(value) for key, value in row.items()
            }
            for row in csv.DictReader(file)
        }


def test_table_is_whole(table: dict) -> None:
    heads = [("softmax", ""), *(("A-Softmax", str(m)) for m in (1, 2, 3, 4))]
    promised = {(*head, dim) for head in heads for dim in (2, 3)} | {("pixels", "", 64)}
    assert set(table) == promised
    assert all(
        row["seeds"] == 5 and np.isfinite(list(row.values())).all() for row in table.values()
    )


@pytest.mark.parametrize("dim", (2, 3))
def test_larger_m_shows_the_larger_margin(table: dict, dim: int) -> None:
    rows = [table["A-Softmax", str(m), dim] for m in (1, 2, 3, 4)]
    own = [row["own_angle_mean"] for row in rows]
    gap = [row["nearest_other_angle_mean"] - row["own_angle_mean"] for row in rows]
    fisher = [row["fisher_score_mean"] for row in rows]
    accuracy = [row["open_set_accuracy_mean"] for row in rows]
    assert own == sorted(own, reverse=True) and gap == sorted(gap)
    assert fisher == sorted(fisher, reverse=True) and accuracy == sorted(accuracy)
    softmax = table["softmax", "", dim]
    assert fisher[3] < softmax["fisher_score_mean"] < fisher[0]


def test_exceptions_named_are_so(table: dict) -> None:
    pixels = table["pixels", "", 64]["open_set_accuracy_mean"]
    assert all(row["open_set_accuracy_mean"] <= pixels for row in table.values())
    first, last = table["A-Softmax", "1", 2], table["A-Softmax", "4", 2]
    gain = last["open_set_accuracy_mean"] - first["open_set_accuracy_mean"]
    assert gain < last["open_set_accuracy_std"]


def test_docstring_tells_the_table(digits: ModuleType, table: dict) -> None:
    lines = [" ".join(line.split()) for line in (digits.__doc__ or "").splitlines()]
    for (head, m, dim), row in table.items():
        name = f"{head} m={m}" if m else head
        cells = next(line for line in lines if line.startswith(f"{name} {dim} ")).split()
        told = [float(cell) for cell in cells[len(name.split()) :] if cell not in ("±", "deg")][1:]
        keys = [key for key in row if key != "seeds" and "angle_std" not in key]
        assert np.allclose(told[:4], [row[key] for key in keys[:4]], atol=0.00051)
        assert np.allclose(told[4:], [row[key] for key in keys[4:]], atol=0.051)


def test_split_keeps_held_out_pictures_and_strangers_apart(digits: ModuleType) -> None:
    chosen, held_out = digits.split(3)
    assert not set(chosen) & set(held_out)
    assert sorted([*chosen, *held_out]) == list(np.flatnonzero(digits.labels <= 5))
    assert 0.19 < len(held_out) / (len(chosen) + len(held_out)) < 0.21


def test_angles_by_hand(digits: ModuleType) -> None:
    which = np.array([np.flatnonzero(digits.labels == 0)[0]])
    x = np.zeros((len(digits.labels), 2))
    x[which] = (0, 5)
    at = np.radians((60, 180, 200, 220, 240, 260))
    own, other = digits.angles((x, 3 * np.stack([np.cos(at), np.sin(at)])), which)
    assert own == pytest.approx([30]) and other == pytest.approx([90])


def test_open_set_accuracy_of_known_embeddings(digits: ModuleType) -> None:
    perfect = np.eye(10)[digits.labels]
    blind = np.random.default_rng(0).normal(size=(len(perfect), 8))
    assert digits.open_set_accuracy(perfect, 0) == 1.0
    assert digits.open_set_accuracy(blind, 0) == pytest.approx(0.5, abs=0.03)


def test_a_short_training_shows_the_margin(digits: ModuleType) -> None:
    plain, margin = (digits.measure(digits.train(m, 3, 1, epochs=8), 1) for m in (1, 4))
    assert margin[0] < 0.9 * plain[0], "angular Fisher score"
    assert margin[2] < 0.9 * plain[2], "angle to the own class"
    assert digits.train(None, 2, 0, epochs=1)[1].shape == (2, 6)


def test_picture_is_drawn_and_small(digits: ModuleType, tmp_path: pathlib.Path) -> None:
    random = np.random.default_rng(0)
    runs = {
        (name, dim): (random.normal(size=(len(digits.labels), dim)), random.normal(size=(dim, 6)))
        for name in digits.HEADS
        for dim in (2, 3)
    }
    digits.draw(runs, tmp_path / "digits.png")
    for path in (tmp_path / "digits.png", EXAMPLES / "digits.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert 50_000 < (EXAMPLES / "digits.png").stat().st_size < 350_000
