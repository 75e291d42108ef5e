"""dlib's face recognition network on LFW, through this project's detector, alignment and protocol.

    python benchmarks/lfw_dlib.py LFW_ZIP YUNET

LFW_ZIP: lfw-deepfunneled.zip with LFW's lists; YUNET: a YuNet face detector as .onnx. The weights
are those of the preset `dlib_resnet`, its author's as `spherekeras zoo convert --from dlib` left
them (kept in float16).

A network from elsewhere, whose accuracy its author published, proves aligner and evaluator: 99.13 %
for one crop, 99.38 % for 100 slightly different ones added up (dlib's face_recognition.py). The
rows of lfw_dlib.csv: test pairs of view 1 with the mean kept and subtracted; view 2 with the
mirrored crop's embedding added and left out; 95 % intervals over groups of pairs that share nobody.
"""

import csv
import pathlib
import sys
from typing import Any

from spherekeras.data.detection import YuNetDetector
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path
from spherekeras.provenance import processor, versions
from spherekeras.publishing import Seen


def main(pictures: str, detector: str) -> None:
    """Measures and writes the table."""
    faces = FaceEmbedder.from_preset("dlib_resnet", YuNetDetector(detector))
    seen: Any = Seen(faces, {})
    rows = []
    for view, mirror, subtract in ((1, "sum", 0), (1, "sum", 1), (2, "sum", 0), (2, "none", 0)):
        result = lfw(seen, pictures, view, mirror, subtract_mean=bool(subtract), progress=show)
        low, high = result.intervals["accuracy"]
        rows.append(
            {
                "view": view,
                "mirror": mirror,
                "mean": "subtracted" if subtract else "kept",
                "accuracy": f"{result.accuracy:.4f}",
                "low": f"{low:.4f}",
                "high": f"{high:.4f}",
                "auc": f"{result.auc:.5f}",
                "detector": faces.detector_name,
                "machine": processor(),
                **versions(),
            }
        )
        print(f"\n{result}", flush=True)
    table = pathlib.Path(__file__).with_suffix(".csv")
    with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def show(done: int, total: int) -> None:
    """Says how far it is."""
    print(f"\r{done} of {total} pictures", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
