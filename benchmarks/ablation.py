"""What margin, head and depth are worth on the same data: the papers' tables, at small scale.

    python benchmarks/ablation.py RECORDS LFW_ZIP YUNET RUNS [VARIANT ...]     # hours; resumes

Each variant is `examples/recipes/sphere4_asoftmax.toml` with its head or depth changed and 2,000
steps of 128. Measured on people held out from training (all pairs) and on the test pairs of LFW's
view 1; view 2 is not touched. A variant whose recipe is in `ablation.csv` is not run again.

RECORDS: of `spherekeras pack faces_112x112.zip`; RUNS: a folder for checkpoints.
"""

import csv
import hashlib
import pathlib
import re
import sys

from spherekeras import publishing
from spherekeras.data import detection
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path
from spherekeras.provenance import processor, versions
from spherekeras.training import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "recipes" / "sphere4_asoftmax.toml"
STEPS = 2000

_ANNEALED = "annealing = [1000.0, 0.12, 1.0, 5.0]"
VARIANTS = {
    "softmax": (4, 'name = "SoftmaxLinear"'),
    **{f"m={m}": (4, f'name = "ASoftmax"\nmargin = {m}\n{_ANNEALED}') for m in (1, 2, 3, 4)},
    **{
        f"R {version}": (
            4,
            f'name = "SphereFaceR"\nversion = "{version}"\nmargin = {m}\nscale = {s}',
        )
        for version, m, s in (("v0", 1.5, 30.0), ("v1", 1.5, 30.0), ("v2", 1.4, 60.0))
    },
    **{
        f"depth {depth}": (depth, f'name = "ASoftmax"\nmargin = 4\n{_ANNEALED}')
        for depth in (10, 20)
    },
}


def recipe(variant: str) -> str:
    """The base recipe with a variant's depth and head."""
    depth, head = VARIANTS[variant]
    text = re.sub(r"\[head\]\n(.+\n)+", f"[head]\n{head}\n", RECIPE.read_text(encoding="utf-8"))
    text = text.replace("depth = 4", f"depth = {depth}")
    return re.sub(r"\bsteps = \d+", f"steps = {STEPS}", text)


def main() -> None:
    """Trains what is not in the table yet, measures it and adds a row."""
    records, archive, yunet, runs = sys.argv[1:5]
    table = pathlib.Path(__file__).with_suffix(".csv")
    rows = list(csv.DictReader(table.open(newline=""))) if table.is_file() else []
    crops: dict = {}  # found once: all variants take the same template
    for variant in sys.argv[5:] or VARIANTS:
        text = recipe(variant)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        rows = [row for row in rows if row["variant"] != variant or row["recipe"] == digest]
        if any(row["variant"] == variant for row in rows):
            continue
        folder = pathlib.Path(runs) / re.sub(r"\W+", "_", variant)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "variant.toml").write_text(text, encoding="utf-8")
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
                "recipe": digest,
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
        print({key: rows[-1][key] for key in list(rows[-1])[:10]}, flush=True)
        with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
