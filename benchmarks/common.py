"""What a constant component in embeddings is worth (`backbone.common` of a recipe).

    python benchmarks/common.py RECORDS LFW_ZIP YUNET PRESET [PRESET ...]     # some minutes each

Each preset is centred (`start_centred`), then gets components of several shares of its embeddings'
mean length (`keep_length`), both from 1,024 crops of training. Measured on all pairs of people held
out from training and on the test pairs of LFW's view 1, no mean subtracted; view 2 is not touched.
The first row of a preset, without a share, is the preset as it is, its mean subtracted on view 1 as
in the SphereFace release.

RECORDS: those of the training, or others of the same people under the same names.
"""

import csv
import pathlib
import sys
from typing import Any

import keras
import numpy as np

from spherekeras import common_part, evaluation, publishing
from spherekeras.data import detection, pipeline
from spherekeras.data.records import open_records
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import lfw, metrics
from spherekeras.files import atomic_path
from spherekeras.presets import trained_on
from spherekeras.provenance import processor, versions
from spherekeras.teacher import turned
from spherekeras.training import whole_people

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
SOME = 1024


class Moved:
    """An embedder that keeps the outputs of crops, and adds what its bias has gained since."""

    def __init__(self, faces: Any, crops: dict[str, np.ndarray]) -> None:
        self._faces, self._seen, self._known = faces, publishing.Seen(faces, crops), {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)

    def _bias(self) -> np.ndarray:
        return keras.ops.convert_to_numpy(common_part.last_bias(self._faces)).copy()

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        """Returns embeddings as `FaceEmbedder.embed_crops` does."""
        moved, keys = self._bias(), [crop.tobytes() for crop in crops]
        new = [index for index, key in enumerate(keys) if key not in self._known]
        if new:
            found = (self._faces.embed_crops(c, "none", False) for c in _both(crops[new]))
            for index, *pair in zip(new, *found, strict=True):
                self._known[keys[index]] = np.stack(pair) - moved
        one, other = np.stack([self._known[key] for key in keys], axis=1) + moved
        rows = np.concatenate([one, other], axis=1) if mirror == "concat" else one
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows


def _both(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return crops, np.ascontiguousarray(crops[:, :, ::-1])


def main() -> None:
    """Measures the presets and writes their rows anew."""
    records, archive, yunet, *names = sys.argv[1:]
    people, table = open_records(records), pathlib.Path(__file__).with_suffix(".csv")
    rows = list(csv.DictReader(table.open(newline=""))) if table.is_file() else []
    rows = [row for row in rows if row["preset"] not in names]
    found: dict[str, np.ndarray] = {}
    for name in names:
        faces = FaceEmbedder.from_preset(name, detection.YuNetDetector(yunet))
        share = trained_on(faces.metadata)["validation"]
        known, held = pipeline.split(people, min_images=2, validation=share)
        held = whole_people(people.labels, held, evaluation.MOST_CROPS)
        strangers = turned(people, held, faces.config)
        who = [people.identities[label] for label in people.labels[held]]
        some = turned(people, known[np.linspace(0, len(known) - 1, SOME).astype(int)], faces.config)
        moved = Moved(faces, found)
        origin = faces.backbone.get_weights()
        for part in (None, *SHARES):
            faces.backbone.set_weights(origin)
            if part is not None:
                common_part.start_centred(faces, some)
            if part:
                common_part.keep_length(faces, some, part)
            result = lfw(moved, archive, view=1, subtract_mean=part is None)
            pairs = evaluation.all_pairs(moved.embed_crops(strangers, "none", True), who)
            low, high = result.intervals["accuracy"]
            rows.append(
                {
                    "preset": name,
                    "share": "" if part is None else part,
                    "held_out_auc": f"{metrics.auc(*pairs):.5f}",
                    "held_out_tar_at_1e-2": f"{metrics.tar_at_far(*pairs, 1e-2):.4f}",
                    "lfw_view_1": f"{result.accuracy:.4f}",
                    "low": f"{low:.4f}",
                    "high": f"{high:.4f}",
                    "lfw_view_1_auc": f"{result.auc:.5f}",
                    "machine": processor(),
                    **versions(),
                }
            )
            print(*list(rows[-1].values())[:8], flush=True)
        with atomic_path(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
