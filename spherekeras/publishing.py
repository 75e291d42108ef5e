"""Publishing a preset: measured by the project itself, its numbers kept beside the weights."""

import contextlib
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np

from spherekeras import presets, zoo
from spherekeras.data import pipeline
from spherekeras.data.records import Records
from spherekeras.embedder import FaceEmbedder
from spherekeras.evaluation import (
    MOST_CROPS,
    VerificationResult,
    by_kind,
    fit_calibration,
    held_out,
    is_grey,
    kinds_table,
    lfw,
    linked_groups,
    out_of_fold,
    quality_kinds,
    reliability,
    sharpness,
)
from spherekeras.teacher import turned

_HELD_OUT = 0.05  # of the people, for weights that were trained elsewhere


def publish(
    preset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str],
    detector: Any = None,
    people: Records | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Measures a preset and saves it, with its card, in the zoo.

    Measured are LFW view 1 and view 2, the latter by quality of the pictures too; the calibration
    of `verify`'s probability, on view 1; and what the thresholds, which come from the people held
    out in training, do on view 1.

    Args:
        preset: folder of a trained or converted preset.
        out: its folder in the zoo; the zoo's table beside it is written anew.
        data: LFW, folder or zip.
        detector: of faces, see `FaceEmbedder`.
        people: for weights that were trained elsewhere, and so hold out nobody: crops of other
            people. The thresholds come from a twentieth of them.
        progress: called with (done, total) photographs.

    Returns:
        `out`.

    Raises:
        PresetError: a damaged preset.
        DataError: LFW or the crops of people cannot be used.
    """
    fit_calibration([0.0, 1.0], [False, True])  # told before the work: is scikit-learn there?
    faces = FaceEmbedder.from_preset(preset, detector=detector)
    folder = faces.folder or pathlib.Path(preset)
    metadata = {**faces.metadata, "name": pathlib.Path(out).name, "versions": versions()}
    if people is not None:
        metadata |= _held_out(faces, people)
    seen: Any = Seen(faces)
    metadata |= _as_used(seen, data, metadata.get("thresholds", []), progress)
    tests = [lfw(seen, data, view=view, progress=progress) for view in (2, 1)]
    metadata["metrics"] = [_metric(test, faces, metadata["name"]) for test in tests]
    metadata["metrics"][0]["kinds"] = _kinds(tests[0], seen)
    metadata["measured"] = presets.stamp(folder)
    recipe = (folder / "recipe.toml").read_text(encoding="utf-8")
    saved = faces.save_preset(out, metadata=metadata, recipe=recipe)
    zoo.write_table(saved.parent)
    return saved


class Seen:
    """An embedder that keeps the crops that it has made, by the name of their photograph.

    Args:
        faces: the embedder.
        crops: where to keep them, for embedders that take the same crops.
    """

    def __init__(self, faces: FaceEmbedder, crops: dict[str, np.ndarray] | None = None) -> None:
        self.crops: dict[str, np.ndarray] = {} if crops is None else crops
        self._faces = faces

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faces, name)

    def crop(self, source: Any, name: str) -> np.ndarray:
        """Returns the aligned crop of a photograph, found once."""
        if name not in self.crops:
            self.crops[name] = self._faces.crop(source, name)
        return self.crops[name]


def _held_out(faces: FaceEmbedder, people: Records) -> dict[str, Any]:
    from spherekeras.training import whole_people

    _, positions = pipeline.split(people, validation=_HELD_OUT)
    positions = whole_people(people.labels, positions, MOST_CROPS)
    names = [people.identities[label] for label in people.labels[positions]]
    return held_out(faces, turned(people, positions, faces.config), names).to_metadata()


def _as_used(
    faces: Any,
    data: str | os.PathLike[str],
    thresholds: list[dict[str, Any]],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """What `verify` makes of the test pairs of LFW's view 1: no mean subtracted, no fold."""
    result = lfw(
        faces, data, view=1, mirror=faces.config.mirror, subtract_mean=False, progress=progress
    )
    people = [[picture.split("/")[0] for picture in pair] for pair in result.names or ()]
    probabilities = out_of_fold(result.similarities, result.same, linked_groups(people) % 10)
    error = reliability(probabilities, result.same).calibration_error
    calibration = fit_calibration(result.similarities, result.same, prior=0.5)
    data = (
        f"the {result.pairs} pairs of LFW's pairsDevTest.txt, faces found by {faces.detector_name}"
    )
    rows = []
    for row in thresholds:
        passed = result.similarities >= row["threshold"]
        on = {"tar": passed[result.same].mean(), "far": passed[~result.same].mean()}
        rows.append({**row, "lfw_view_1": {key: round(float(on[key]), 4) for key in on}})
    return {
        "calibration": {
            **calibration.to_dict(),
            "data": f"{data}; expected calibration error {error:.1%}, each tenth of the people "
            "judged by the others",
        },
        "thresholds": rows,
    }


def _metric(result: VerificationResult, faces: FaceEmbedder, name: str) -> dict[str, Any]:
    spread = "" if np.isnan(result.std) else f" ± {100 * result.std:.2f}"
    protocol = "lfw" if result.name == "LFW view 2" else "lfw-view1"
    return {
        "name": result.name,
        "value": f"{100 * result.accuracy:.2f} %{spread}",
        "accuracy": round(result.accuracy, 6),
        "protocol": result.protocol,
        "interval": f"{result.between('accuracy', '.2%')} (95 %, bootstrap)",
        "pairs": result.pairs,
        "pictures without a face": len(result.no_face or ()),
        "AUC": round(result.auc, 5),
        "EER": f"{100 * result.eer:.2f} %",
        **{
            f"TAR at FAR {far:g}": result.unmeasured.get(far, f"{100 * tar:.2f} %")
            for far, tar in result.tar_at_far.items()
        },
        "detector": faces.detector_name,
        "command": f"spherekeras evaluate {name} --protocol {protocol} --data LFW "
        "--detector-model MODEL",
    }


def _kinds(result: VerificationResult, seen: Seen) -> list[dict[str, Any]]:
    """Error rates by quality, at the thresholds that the folds chose."""
    pairs = result.names or []
    crops = {name: seen.crops[name] for pair in pairs for name in pair if name in seen.crops}
    pairs_seen = np.array([a in crops and b in crops for a, b in pairs])
    place = {name: index for index, name in enumerate(crops)}
    first, second = np.array(
        [(place[a], place[b]) for a, b in pairs if a in crops and b in crops]
    ).T
    sharp = [sharpness(crop) for crop in crops.values()]
    greys = [is_grey(crop) for crop in crops.values()]
    kinds = {"all": np.ones(len(first), bool), **quality_kinds(sharp, greys, first, second)}
    rows = by_kind(
        result.similarities[pairs_seen],
        result.same[pairs_seen],
        result.pair_thresholds[pairs_seen],
        kinds,
    )
    return kinds_table(rows)


def versions() -> dict[str, str]:
    """Returns what measures: Python, packages, the project's commit ("+" for changes on top)."""
    import cv2
    import keras
    import numpy as np

    root = pathlib.Path(__file__).resolve().parent.parent
    commit = "not from a checkout"
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            commit = run.stdout.strip()
    return {
        "commit": commit,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
    }
