"""Publishing a preset: measured by the project itself, its numbers kept beside the weights."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from spherekeras import presets, zoo_pages
from spherekeras.card import headline, percent
from spherekeras.data import pipeline
from spherekeras.data.records import Records
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, PresetError
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
from spherekeras.provenance import versions
from spherekeras.teacher import turned
from spherekeras.training import whole_people

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
    out in training, do on view 1. Whether the mean embedding is subtracted on view 2 is chosen on
    view 1, by accuracy; it is on a tie, as in the SphereFace release.

    Args:
        preset: folder of a trained or converted preset.
        out: its folder in the zoo; the zoo's table beside it is written anew. A TFLite file that
            `zoo files` made there tells of other numbers then and is removed, with its rows.
        data: LFW, folder or zip.
        detector: of faces, see `FaceEmbedder`.
        people: records to measure thresholds on anew: those of the training, whose held-out people
            are taken; or, for weights that were trained elsewhere, any, a twentieth of them.
        progress: called with (done, total) photographs.

    Returns:
        `out`.

    Raises:
        PresetError: a damaged preset, a place where none may be (`presets.check_place`), or
            thresholds that are not these weights' own.
        DataError: LFW or the records cannot be used.
    """
    fit_calibration([0.0, 1.0], [False, True])  # told before the work: is scikit-learn there?
    out = pathlib.Path(os.path.abspath(out))
    presets.check_place(out)
    zoo_pages.check_table(out.parent)
    faces = FaceEmbedder.from_preset(preset, detector=detector)
    folder = presets.find_preset(preset)
    known = faces.metadata
    if known.get("measured") != presets.stamp(folder):
        known = presets.unmeasured(known)
    metadata = {**known, "name": out.name}
    if people is not None:
        metadata |= _held_out(faces, people)
    elif "thresholds" not in metadata and "thresholds" in faces.metadata:
        raise PresetError(
            f"The thresholds of {folder} were measured with other weights or another config. Give "
            "the records of its training: `--people RECORDS`."
        )
    for key in ("latency", "files"):  # measured among other presets, and against other numbers
        metadata.pop(key, None)
    seen: Any = Seen(faces)
    metadata |= _as_used(seen, data, metadata.get("thresholds", []), progress)
    kept, less = (
        lfw(seen, data, view=1, subtract_mean=subtract, progress=progress)
        for subtract in (False, True)
    )
    subtract = less.accuracy >= kept.accuracy
    final = lfw(seen, data, view=2, subtract_mean=subtract, progress=progress)
    metadata["metrics"] = [
        _metric(test, faces, metadata["name"], subtract)
        for test in (final, less if subtract else kept)
    ]
    metadata["metrics"][0]["kinds"] = _kinds(final, seen)
    metadata["metrics"][1]["chosen"] = (
        f"Here it was chosen whether the mean embedding is subtracted: {percent(less.accuracy)} "
        f"with it subtracted, {percent(kept.accuracy)} without."
    )
    recipe = (folder / "recipe.toml").read_text(encoding="utf-8")
    saved = faces.save_preset(out, metadata=metadata, recipe=recipe)
    metadata["measured"] = presets.stamp(saved)
    faces.save_preset(out, metadata=metadata, recipe=recipe)
    zoo_pages.write_table(saved.parent)
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


def held_out_people(faces: FaceEmbedder, people: Records) -> tuple[np.ndarray, list[str], str, str]:
    """Returns the crops of people on whom a preset's thresholds are measured.

    Args:
        faces: the preset.
        people: records: those of the training, whose held-out people are taken; or, for weights
            that were trained elsewhere, any, a twentieth of them.

    Returns:
        Their positions in the records; the person of each; whose crops they are and what is done
        to them, for the protocol.

    Raises:
        DataError: other records than those of the training, or nobody is held out.
    """
    trained = faces.metadata.get("trained_on", {})
    if trained and trained.get("records") != people.checksum:
        raise DataError(
            f"{people.folder} is not what these weights were trained on, so who was held out is "
            "not known. Give the records of their training."
        )
    try:
        _, positions = pipeline.split(people, validation=validation_share(faces, people))
    except DataError:  # which speaks of a recipe
        raise DataError(
            f"Of the {len(people.identities)} people of {people.folder} fewer than two are left "
            "besides those held out. Give crops of more people."
        ) from None
    positions = whole_people(people.labels, positions, MOST_CROPS)
    if not len(positions):
        raise DataError(
            f"Of the {len(people.identities)} people of {people.folder} none is held "
            "out. Give crops of more people."
        )
    if trained.get("start_changed"):
        who = "people held out from training, of whom what it began with may have seen some"
    elif trained:
        who = "people held out from training"
    elif _seen(faces, people):
        who = "people held out from the training that these weights began with"
    else:
        who = "other people, of whom the weights may have seen some"
    names = [people.identities[label] for label in people.labels[positions]]
    how = f"records {people.checksum[:12]}, crops of {people.height}x{people.width}"
    if faces.config.height > people.height:
        how += f" enlarged to {faces.config.height}x{faces.config.width} with repeated edges"
    return positions, names, who, how


def validation_share(faces: FaceEmbedder, people: Records) -> float:
    """Returns the share of people of records that a preset's training held out, or would have."""
    return float(_seen(faces, people).get("validation", _HELD_OUT))


def _seen(faces: FaceEmbedder, people: Records) -> dict[str, Any]:
    """The training on these very records that the weights had, at first or at all."""
    trained = presets.trained_on(faces.metadata)
    return trained if trained.get("records") == people.checksum else {}


def _held_out(faces: FaceEmbedder, people: Records) -> dict[str, Any]:
    positions, names, who, how = held_out_people(faces, people)
    crops = turned(people, positions, faces.config)
    return held_out(faces, crops, names, who=who, how=how).to_metadata()


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
    rows = []
    for row in thresholds:
        passed = result.similarities >= row["threshold"]
        on = {
            "same": int(result.same.sum()),
            "same_accepted": int(passed[result.same].sum()),
            "different": int((~result.same).sum()),
            "different_accepted": int(passed[~result.same].sum()),
        }
        rows.append({**row, "lfw_view_1": on})
    return {
        "calibration": {
            **calibration.to_dict(),
            "data": f"the {result.pairs} pairs of LFW's pairsDevTest.txt, faces found by "
            f"{faces.detector_name}; expected calibration error {error:.1%}, each tenth of the "
            "people judged by the others",
        },
        "thresholds": rows,
    }


def _metric(
    result: VerificationResult, faces: FaceEmbedder, name: str, subtract: bool
) -> dict[str, Any]:
    protocol = "lfw" if result.name == "LFW view 2" else "lfw-view1"
    how = "" if subtract else " --keep-mean"
    how += " --detector-model MODEL" if faces.detector_name.startswith("yunet") else ""
    values = result.to_dict()
    for key in ("folds", "thresholds"):
        del values[key]
    return {
        **values,
        "value": headline(result.accuracy, None if np.isnan(result.std) else result.std),
        "subtract_mean": subtract,
        "no_face": len(result.no_face or ()),
        "detector": faces.detector_name,
        "command": f"spherekeras evaluate {name} --protocol {protocol} --data LFW{how}",
        "measured_with": ", ".join(f"{key} {value}" for key, value in versions().items()),
    }


def _kinds(result: VerificationResult, seen: Seen) -> list[dict[str, Any]]:
    """Error rates by quality of the pairs whose faces were found, at the folds' thresholds."""
    pairs = result.names or []
    whole = np.array([a in seen.crops and b in seen.crops for a, b in pairs])
    if not whole.any():
        return []
    place = {name: index for index, name in enumerate(seen.crops)}
    chosen = [pair for pair, found in zip(pairs, whole, strict=True) if found]
    first, second = np.array([[place[a], place[b]] for a, b in chosen]).T
    sharp = [sharpness(crop) for crop in seen.crops.values()]
    greys = [is_grey(crop) for crop in seen.crops.values()]
    kinds = {
        "all" if whole.all() else "all whose faces were found": np.ones(len(first), np.bool_),
        **quality_kinds(sharp, greys, first, second),
    }
    limits = result.pair_thresholds[whole]
    return kinds_table(by_kind(result.similarities[whole], result.same[whole], limits, kinds))
