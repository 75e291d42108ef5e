"""The zoo: presets listed, checked, and published with their measurements."""

import contextlib
import fnmatch
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spherekeras import hosting, presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError, SphereKerasError
from spherekeras.evaluation import (
    fit_calibration,
    lfw,
    linked_groups,
    out_of_fold,
    reliability,
)
from spherekeras.files import atomic_path, sha256

_HEAD = "# Zoo"
_COLUMNS = ("name", "backbone", "parameters", "megabytes", "lfw", "place")
_STATED = ("backbone", "parameters", "lfw", "weights_licence", "terms")


def rows(patterns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns one row a preset: name, backbone, parameters, weights' size, LFW accuracy, place.

    Args:
        patterns: of names, with wildcards; by default all.

    Raises:
        PresetError: a pattern fits no name.
    """
    hosted = hosting.manifest()
    here = presets.list_presets()
    known = sorted({*here, *hosted})
    wanted: set[str] = set()
    for pattern in patterns or ["*"]:
        fitting = fnmatch.filter(known, pattern)
        if patterns and not fitting:
            raise PresetError(f"No preset's name fits {pattern!r}. {presets.known_presets(known)}")
        wanted.update(fitting)
    return [
        _row(presets.find_preset(name)) if name in here else _hosted_row(name, hosted[name])
        for name in sorted(wanted)
    ]


def fetch(name: str) -> pathlib.Path:
    """Returns the folder of a preset; one of the manifest is brought into the cache, or renewed.

    Raises:
        PresetError: unknown, or not to be had.
    """
    hosted = hosting.manifest()
    return hosting.fetch(name, hosted[name]) if name in hosted else presets.find_preset(name)


def write_manifest(
    zoo: str | os.PathLike[str], url: str, out: str | os.PathLike[str]
) -> pathlib.Path:
    """Writes the manifest of a zoo that a server shows under `url`, for `SPHEREKERAS_MANIFEST`.

    Args:
        zoo: folder of presets; each is checked.
        url: where the server shows that folder, such as "https://example.org/zoo".
        out: the manifest, a .json file.

    Returns:
        `out`.

    Raises:
        PresetError: no preset, a damaged one, or a `url` that is not http(s).
    """
    listed = {}
    for folder in sorted(path for path in pathlib.Path(zoo).iterdir() if path.is_dir()):
        if not (folder / presets.SUMS).is_file():
            continue
        presets.check_files(folder)
        row = _sound_row(folder)
        listed[folder.name] = {
            **{key: row[key] for key in _STATED},
            "files": {
                name: {
                    "url": f"{url.rstrip('/')}/{folder.name}/{name}",
                    "size": (folder / name).stat().st_size,
                    "sha256": sha256(folder / name),
                }
                for name in presets.FILES
            },
        }
    if not listed:
        raise PresetError(f"{zoo} holds no preset. Expected a folder with a folder a preset.")
    value = {"format": 1, "presets": listed}
    hosting.entries(value, out)
    with atomic_path(out) as temporary:
        temporary.write_text(presets.to_json(value), encoding="utf-8")
    return pathlib.Path(out)


def text_table(table: Sequence[dict[str, Any]]) -> str:
    """Returns rows as aligned text."""
    if not table:
        return "The zoo is empty."
    cells = [list(_COLUMNS), *([str(row[c]) for c in _COLUMNS] for row in table)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def check(names: Sequence[str] = ()) -> Iterator[tuple[str, str, bool]]:
    """Checks files and golden vectors of presets; yields (name, verdict, good) for each.

    Args:
        names: of presets or folders, by default all of the zoo.
    """
    for name in names or presets.list_presets():
        try:
            difference = FaceEmbedder.from_preset(name).check_golden()
            yield name, f"files intact, golden vectors within {difference:.1g}", True
        except SphereKerasError as error:
            yield name, str(error), False


def convert(
    file: str | os.PathLike[str],
    kind: str,
    out: str | os.PathLike[str],
    network: str | None = None,
) -> pathlib.Path:
    """Turns another library's weight file into a preset, with the preprocessing that it needs.

    Args:
        file: the weights.
        kind: whose they are: "caffe" (the SphereFace authors' release), "clcarwin", "dlib" or
            "opensphere".
        out: the preset's folder.
        network: the network's name in OpenSphere's config.yml, where the weights do not tell.

    Returns:
        That folder. What the file holds beside the backbone is left out, and named in the
        metadata's `converted_from`.

    Raises:
        DataError: the file is not what `kind` says.
        PresetError: another kind; or a network's name for one that is not of OpenSphere.
    """
    from spherekeras import converters

    kinds = {
        "caffe": converters.convert_caffe,
        "clcarwin": converters.convert_clcarwin,
        "dlib": _converted_dlib,
        "opensphere": lambda file: converters.convert_opensphere(file, network),
    }
    if kind not in kinds:
        raise PresetError(f"`convert` knows {', '.join(kinds)}. Received: {kind!r}.")
    if network and kind != "opensphere":
        raise PresetError(f"A network is named for opensphere alone. Received: {network!r}.")
    converted = kinds[kind](file)
    metadata = {
        **converted.metadata,
        "name": pathlib.Path(out).name,
        "converted_from": {
            "file": pathlib.Path(file).name,
            "sha256": sha256(file),
            "left_out": list(converted.left_out),
        },
    }
    config = presets.PresetConfig(**converted.config)
    return FaceEmbedder(converted.model, config).save_preset(out, metadata=metadata)


def _converted_dlib(file: str | os.PathLike[str]) -> Any:
    from spherekeras import converters

    model = converters.convert_dlib(file)
    config = {
        "backbone": "DlibResNet",
        "arguments": {"embedding_dim": model.output_shape[-1], "input_shape": [150, 150, 3]},
        "template": "dlib_150x150",
        "height": 150,
        "width": 150,
        "scale": 1 / 128,
        "offset": 127.5,
    }
    metadata = {
        "description": "dlib's face recognition ResNet, converted.",
        "weights_licence": "CC0-1.0 (dlib_face_recognition_resnet_model_v1, Davis King)",
    }
    return converters.Converted(model, config, metadata)


def publish(
    preset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str],
    detector: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Measures a trained preset on LFW and saves it with its card in the zoo.

    Its numbers are view 2's. What `verify` gives as a probability is fitted on view 1.

    Args:
        preset: folder of a trained preset.
        out: its folder in the zoo; the zoo's table beside it is written anew.
        data: LFW, folder or zip.
        detector: of faces, see `FaceEmbedder`.
        progress: called with (done, total) photographs.

    Returns:
        `out`.
    """
    faces = FaceEmbedder.from_preset(preset, detector=detector)
    measured_by = versions()
    metadata = {**faces.metadata, "name": pathlib.Path(out).name}
    metadata["calibration"] = _calibration(faces, data, progress)
    result = lfw(faces, data, view=2, progress=progress)
    metadata["metrics"] = [
        {
            "name": "LFW view 2",
            "value": f"{100 * result.accuracy:.2f} % ± {100 * result.std:.2f}",
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
            "command": f"spherekeras evaluate {pathlib.Path(out).name} --protocol lfw --data LFW "
            "--detector-model MODEL",
        }
    ]
    metadata["versions"] = measured_by
    recipe = (pathlib.Path(faces.folder or preset) / "recipe.toml").read_text(encoding="utf-8")
    folder = faces.save_preset(out, metadata=metadata, recipe=recipe)
    write_table(folder.parent)
    return folder


def _calibration(
    faces: FaceEmbedder,
    data: str | os.PathLike[str],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """From a cosine as `verify` computes it to a probability, by the test pairs of LFW's view 1."""
    fit_calibration([0.0, 1.0], [False, True])  # told before the work: is scikit-learn there?
    result = lfw(
        faces, data, view=1, mirror=faces.config.mirror, subtract_mean=False, progress=progress
    )
    people = [[picture.split("/")[0] for picture in pair] for pair in result.names or ()]
    probabilities = out_of_fold(result.similarities, result.same, linked_groups(people) % 10)
    error = reliability(probabilities, result.same).calibration_error
    calibration = fit_calibration(result.similarities, result.same, prior=0.5)
    return {
        **calibration.to_dict(),
        "data": f"the {result.pairs} pairs of LFW's pairsDevTest.txt, faces found by "
        f"{faces.detector_name}; expected calibration error {error:.1%}, each tenth of the people "
        "judged by the others",
    }


def write_table(zoo: pathlib.Path) -> None:
    """Writes the zoo's README.md from the metadata of its presets."""
    page = zoo / "README.md"
    if page.exists() and not page.read_text(encoding="utf-8").startswith(_HEAD):
        raise PresetError(f"{page} is not a zoo's table and is left as it is. Publish into a zoo.")
    table = [_row(f) for f in sorted(zoo.iterdir()) if (f / presets.SUMS).is_file()]
    lines = [
        _HEAD,
        "",
        "Generated from the presets' metadata by `spherekeras zoo publish`; protocol, interval and",
        "terms stand in each preset's card.",
        "",
        "| preset | backbone | parameters | weights | LFW view 2 |",
        "|---|---|---|---|---|",
        *(
            f"| [{r['name']}]({r['name']}/README.md) | {r['backbone']} | "
            f"{r['parameters'] or 0:,} | {r['megabytes']} MB | {r['lfw']} |"
            for r in table
        ),
    ]
    with atomic_path(page) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return _sound_row(folder)
    except PresetError as error:
        return {**dict.fromkeys(_COLUMNS, ""), "name": folder.name, "lfw": f"damaged: {error}"}


def _sound_row(folder: pathlib.Path) -> dict[str, Any]:
    metadata, config = presets.read_metadata(folder), presets.read_config(folder)
    measured = {metric["name"]: metric["value"] for metric in metadata.get("metrics", [])}
    depth = config.arguments.get("depth")
    return {
        "name": folder.name,
        "backbone": f"{config.backbone}{f'({depth})' if depth else ''}",
        "parameters": metadata.get("parameters", 0),
        "megabytes": round((folder / "model.weights.h5").stat().st_size / 1e6, 1),
        "lfw": measured.get("LFW view 2", "not measured"),
        "place": "cache" if hosting.is_cached(folder) else "zoo",
        "weights_licence": metadata.get("weights_licence", "not stated"),
        "terms": metadata.get("terms", "not stated"),
    }


def _hosted_row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    size = entry["files"].get("model.weights.h5", {}).get("size", 0)
    return {
        "name": name,
        "megabytes": round(size / 1e6, 1),
        "place": "to be fetched",
        **{key: entry.get(key, "") for key in _STATED},
    }


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
