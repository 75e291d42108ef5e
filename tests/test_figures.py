"""Figures of the README and the pages in docs/ against the cards and tables that they come from."""

import csv
import json
import pathlib
import re
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def table(name: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def card(preset: str) -> dict[str, Any]:
    text = (ROOT / "zoo" / preset / "metadata.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def percent(value: object, digits: int = 2) -> str:
    return f"{100 * float(str(value)):.{digits}f} %"


def test_readme_shows_the_zoos_own_table() -> None:
    zoo = (ROOT / "zoo" / "README.md").read_text(encoding="utf-8")
    presets = {path.parent.name for path in (ROOT / "zoo").glob("*/config.json")}
    rows = [line for line in zoo.splitlines() if "/README.md) | " in line]
    assert {re.match(r"\| \[(\w+)\]", row).group(1) for row in rows} == presets  # type: ignore[union-attr]
    shown = [line for line in README.splitlines() if "/README.md) | " in line]
    assert shown == [row.replace("](", "](zoo/") for row in rows] and len(rows) >= 8


@pytest.mark.parametrize(
    "preset", ["mobile_relu_distilled", "mobile_asoftmax", "sphere10_asoftmax"]
)
def test_strangers_and_lfw_of_a_preset_stand_as_in_its_card(preset: str) -> None:
    known = card(preset)
    held_out = known["held_out"]
    tars = {row["far"]: row["tar"] for row in known["thresholds"]}
    accuracies = {metric["name"]: metric["accuracy"] for metric in known["metrics"]}
    cells = [
        f"{held_out['auc']:.3f}",
        percent(held_out["eer"]),
        *(percent(tars[far], 1) for far in (1e-2, 1e-3)),
        *(percent(accuracies[view]) for view in ("LFW view 1", "LFW view 2")),
    ]
    assert f"| `{preset}` | {' | '.join(cells)} |" in TRAINING
    crowd = f"({held_out['people']} people, {held_out['different']:,} pairs of different ones)"
    assert crowd in " ".join(TRAINING.split())
    if preset != "sphere10_asoftmax":
        assert f"recognises {cells[2]}" in " ".join(README.split())


def test_what_integers_gain_stands_as_measured() -> None:
    page = " ".join((ROOT / "docs" / "clients.md").read_text(encoding="utf-8").split())
    rows = {(r["preset"], r["file"], r["threads"]): r["ratio"] for r in table("latency")}
    for preset, words in (
        ("mobile_relu_distilled", "on one thread in {} of the time of float32"),
        ("mobile_distilled", "`mobile_distilled` takes {} of it"),
        ("sphere4_asoftmax", "`sphere4_asoftmax` takes {} ("),
    ):
        assert words.format(rows[preset, "TFLite int8", "1"]) in page


def test_shares_of_the_common_part_stand_as_measured() -> None:
    presets = ("mobile_asoftmax", "sphere4_asoftmax", "sphere4_r")
    rows = {(row["preset"], row["share"]): row for row in table("common")}
    shares = sorted({float(share) for _, share in rows if share})
    assert len(shares) == 6
    for share in shares:
        cells = [
            f"{float(row['held_out_auc']):.4f}, {percent(row['lfw_view_1'], 1)}"
            for row in (rows[preset, str(share)] for preset in presets)
        ]
        assert f"| {share:g} | {' | '.join(cells)} |" in TRAINING
    kept = [percent(rows[preset, ""]["lfw_view_1"], 1).removesuffix(" %") for preset in presets]
    assert f"reach {kept[0]}, {kept[1]} and {kept[2]} % on view 1" in " ".join(TRAINING.split())


def test_memory_of_many_classes_stands_as_measured() -> None:
    rows = {(r["backend"], r["sampling"], int(r["classes"])): r for r in table("classes")}
    for classes in (10_000, 100_000, 1_000_000):
        cells = [
            f"{int(row['mib']):,} MiB ({int(row['formula_mib']):,}), "
            f"{float(row['seconds_a_step']):.2f} s"
            for row in (rows["tensorflow", sampling, classes] for sampling in ("", "0.1"))
        ]
        assert f"| {classes:,} | {' | '.join(cells)} |" in TRAINING
    whole, sampled = (rows["jax", sampling, 1_000_000] for sampling in ("", "0.1"))
    for row, how in ((whole, "whole"), (sampled, "with sampling")):
        formula = f"({int(row['formula_mib']):,})"
        told = f"{int(row['mib']):,} MiB {formula} and {float(row['seconds_a_step']):.1f} s {how}"
        assert told in " ".join(TRAINING.split())


def test_readmes_measurements_stand_as_measured() -> None:
    text = " ".join(README.split())
    heads = {
        int(row["classes"]): f"{float(row['time_ratio']):.2f}"
        for row in table("heads")
        if (row["framework"], row["optimizer"], row["head"])
        == ("keras", "SGD momentum 0.9", "ASoftmax")
    }
    assert heads.keys() == {10572, 100000}
    assert f"A-Softmax {heads[10572]} and {heads[100000]} of its time a step" in text
    (tuned,) = table("fine_tune")
    before, after = percent(tuned["before"], 1).removesuffix(" %"), percent(tuned["after"], 1)
    assert f"{before} and {after}" in text and f"their {tuned['crops']} crops" in text
    low, high = (100 * float(tuned[f"gain_{end}"]) for end in ("low", "high"))
    assert f"95 % interval of the gain {low:.1f} to {high:.1f} points" in text
    dlib = {(row["view"], row["mirror"], row["mean"]): row for row in table("lfw_dlib")}
    both, single = (dlib["2", mirror, "kept"] for mirror in ("sum", "none"))
    span = f"{percent(both['low']).removesuffix(' %')} to {percent(both['high'])}"
    assert f"reaches {percent(both['accuracy'])} on LFW view 2 (interval {span};" in text
    assert f"{percent(single['accuracy'])} for a single crop" in text
    cold = next(row for row in table("cold_start") if row["runtime"] == "litert")
    assert f"answers in {float(cold['seconds']):.1f} seconds from a cold start" in text
    aligned = max(table("align"), key=lambda row: (row["detector"].startswith("f"), row["views"]))
    assert f"{int(float(aligned['photographs_a_second']))} pictures of 250x250 a second" in text
