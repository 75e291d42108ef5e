"""What margin, form and depth are worth on the same data: the papers' tables, at small scale.

    python benchmarks/ablation.py RECORDS LFW_ZIP YUNET RUNS [VARIANT ...]     # hours; resumes

Each variant is a recipe of `examples/recipes` with another head, depth or setting and 2,000 steps
of 128.
Measured on people held out from training (all pairs) and on the test pairs of LFW's view 1; view 2
is not touched. A variant whose recipe is in `ablation.csv` is not run again. Prints each new row as
a line for `docs/ablation.md`.

RECORDS: of `spherekeras pack faces_112x112.zip`; RUNS: a folder for checkpoints.
"""

import csv
import hashlib
import json
import pathlib
import re
import sys
import tomllib

from spherekeras import publishing
from spherekeras.data import detection
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path
from spherekeras.provenance import processor, versions
from spherekeras.training import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPES = ROOT / "examples" / "recipes"
STEPS = 2000

_ASOFTMAX = 'name = "ASoftmax"\nmargin = {}\nannealing = [1000.0, 0.12, 1.0, 5.0]'
_R = 'name = "SphereFaceR"\nversion = "{}"\nmargin = {}\nscale = 10.0'
# variant: recipe, depth, head, and what else it sets, by table
VARIANTS: dict[str, tuple[str, int, str, dict[str, str]]] = {
    "softmax": ("sphere4_asoftmax", 4, 'name = "SoftmaxLinear"', {}),
    **{f"m={m}": ("sphere4_asoftmax", 4, _ASOFTMAX.format(m), {}) for m in (1, 2, 3, 4)},
    "depth 10": ("sphere4_asoftmax", 10, _ASOFTMAX.format(4), {}),
    "SFNet, m=4": ("sphere4_r", 4, _ASOFTMAX.format(4), {}),
    "R m=1": ("sphere4_r", 4, _R.format("v1", 1.0), {}),
    "R v1": ("sphere4_r", 4, _R.format("v1", 1.5), {}),
    "R v2": ("sphere4_r", 4, _R.format("v2", 1.2), {}),
    "R v1, average": ("sphere4_r", 4, _R.format("v1", 1.5), {"optimizer": "average = 0.999"}),
    "R v1, at most 10": ("sphere4_r", 4, _R.format("v1", 1.5), {"data": "max_images = 10"}),
}


def recipe(variant: str) -> str:
    """A variant's recipe: the base with its depth, head and settings, seed 0, the steps of all."""
    base, depth, head, more = VARIANTS[variant]
    text = (RECIPES / f"{base}.toml").read_text(encoding="utf-8")
    text = re.sub(r"\[head\]\n(.+\n)+", f"[head]\n{head}\n", text)
    text = text.replace("depth = 4", f"depth = {depth}")
    for name, line in more.items():
        text = text.replace(f"[{name}]\n", f"[{name}]\n{line}\n")
    text = re.sub(r"\nseed = \d+\n", "\n", re.sub(r"(?m)^#.*\n", "", text))
    return re.sub(r"\bsteps = \d+", f"steps = {STEPS}", text)


def digest(variant: str) -> str:
    """What tells a row of today's recipe from an older one's: all that decides the weights."""
    told = ("name", "description", "card")
    decides = {k: v for k, v in tomllib.loads(recipe(variant)).items() if k not in told}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def line(row: dict[str, str]) -> str:
    """A row of `ablation.csv` as one of the page's table."""
    view = f"{float(row['lfw_view_1']):.1%} ({float(row['low']):.1%} to {float(row['high']):.1%})"
    found = (row[f"held_out_{key}"] for key in ("auc", "tar_at_1e-2"))
    pairs = " | ".join("-" if text in ("", "None") else f"{float(text):.3f}" for text in found)
    return f"| {row['variant']} | {pairs} | {view.replace('%', ' %')} |"


def main() -> None:
    """Trains what is not in the table yet, measures it and adds a row."""
    records, archive, yunet, runs = sys.argv[1:5]
    table = pathlib.Path(__file__).with_suffix(".csv")
    rows = list(csv.DictReader(table.open(newline=""))) if table.is_file() else []
    crops: dict = {}  # found once: all variants take the same template
    for variant in sys.argv[5:] or VARIANTS:
        key = digest(variant)
        rows = [row for row in rows if row["variant"] != variant or row["recipe"] == key]
        if any(row["variant"] == variant for row in rows):
            continue
        folder = pathlib.Path(runs) / re.sub(r"\W+", "_", f"{variant} {key}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "variant.toml").write_text(recipe(variant), encoding="utf-8")
        preset = train(folder / "variant.toml", records, folder / "run")
        faces = FaceEmbedder.from_preset(preset, detection.YuNetDetector(yunet))
        seen = publishing.Seen(faces, crops)
        result = lfw(seen, archive, view=1)
        held_out = faces.metadata["held_out"]
        tars = {row["far"]: row["tar"] for row in faces.metadata["thresholds"]}
        low, high = result.intervals["accuracy"]
        rows.append(
            {
                "variant": variant,
                "recipe": key,
                "steps": STEPS,
                "held_out_auc": f"{held_out['auc']:.5f}",
                "held_out_eer": f"{held_out['eer']:.5f}",
                "held_out_tar_at_1e-2": tars.get(1e-2),
                "held_out_tar_at_1e-3": tars.get(1e-3),
                "lfw_view_1": f"{result.accuracy:.4f}",
                "low": f"{low:.4f}",
                "high": f"{high:.4f}",
                "lfw_view_1_auc": f"{result.auc:.5f}",
                "machine": processor(),
                **versions(),
            }
        )
        with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
            writer.writeheader()
            writer.writerows(rows)
        print(line({key: str(value) for key, value in rows[-1].items()}), flush=True)


if __name__ == "__main__":
    main()
