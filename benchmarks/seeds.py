"""Whether a preset's recipe, run with another seed, lands within the interval of its card.

    sed 's/^seed = .*/seed = 2/' examples/recipes/NAME.toml > other.toml      # or add the line
    spherekeras train other.toml --data RECORDS --out RUN
    python benchmarks/seeds.py LFW_ZIP YUNET RUN [RUN ...]                    # two minutes each

A run's recipe has to be that of the zoo's preset of the same name, but for the seed and the words
of its card. It is measured once on LFW's view 2, by the protocol of the card, with the mean
subtracted or kept as there; the card's interval is its 95 % bootstrap over groups of people.
"""

import csv
import hashlib
import json
import pathlib
import sys
import tomllib
from typing import Any

from spherekeras import publishing
from spherekeras.data import detection
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path
from spherekeras.provenance import processor, versions

ZOO = pathlib.Path(__file__).resolve().parent.parent / "zoo"
_TOLD = ("name", "description", "card", "seed")


def digest(recipe: str) -> str:
    """What tells recipes apart: all that decides the weights, but for the seed."""
    decides = {k: v for k, v in tomllib.loads(recipe).items() if k not in _TOLD}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def stated(preset: str) -> dict[str, Any]:
    """A preset's figure of view 2, with its interval, as its card has it."""
    metadata = json.loads((ZOO / preset / "metadata.json").read_text(encoding="utf-8"))
    return next(metric for metric in metadata["metrics"] if metric["name"] == "LFW view 2")


def line(row: dict[str, str]) -> str:
    """A row of `seeds.csv` as one of the table in `docs/training.md`."""
    figure, low, high, found = (
        f"{float(row[key]):.2%}".replace("%", " %")
        for key in ("stated", "stated_low", "stated_high", "lfw_view_2")
    )
    return f"| `{row['preset']}` | {figure} ({low} to {high}) | {found} |"


def main() -> None:
    """Measures the runs and writes their presets' rows anew."""
    archive, yunet, *runs = sys.argv[1:]
    table = pathlib.Path(__file__).with_suffix(".csv")
    rows = list(csv.DictReader(table.open(newline=""))) if table.is_file() else []
    crops: dict[str, Any] = {}
    for run in runs:
        text = (pathlib.Path(run) / "preset" / "recipe.toml").read_text(encoding="utf-8")
        name, seed = tomllib.loads(text)["name"], tomllib.loads(text).get("seed", 0)
        own = (ZOO / name / "recipe.toml").read_text(encoding="utf-8")
        if digest(text) != digest(own) or seed == tomllib.loads(own).get("seed", 0):
            sys.exit(f"{run} is not zoo/{name}/recipe.toml with another seed.")
        card = stated(name)
        faces = FaceEmbedder.from_preset(
            pathlib.Path(run) / "preset", detection.YuNetDetector(yunet)
        )
        seen = publishing.Seen(faces, crops)
        result = lfw(seen, archive, view=2, subtract_mean=card["subtract_mean"])
        low, high = card["intervals"]["accuracy"]
        held = faces.metadata.get("held_out", {})
        row = {
            "preset": name,
            "recipe": digest(text),
            "seed": seed,
            "stated": f"{card['accuracy']:.4f}",
            "stated_low": f"{low:.4f}",
            "stated_high": f"{high:.4f}",
            "lfw_view_2": f"{result.accuracy:.4f}",
            "within": low <= result.accuracy <= high,
            "lfw_view_2_auc": f"{result.auc:.5f}",
            "held_out_auc": held.get("auc", ""),
            "machine": processor(),
            **versions(),
        }
        rows = [*(other for other in rows if other["preset"] != name), row]
        print(line({key: str(value) for key, value in row.items()}), row["within"], flush=True)
        with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda each: each["preset"]))


if __name__ == "__main__":
    main()
