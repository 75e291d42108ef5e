"""The zoo: presets listed, checked, and published with their measurements."""

import contextlib
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spherekeras import presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError, SphereKerasError
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path, sha256

_HEAD = "# Zoo"
_COLUMNS = ("name", "backbone", "parameters", "megabytes", "lfw")


def rows() -> list[dict[str, Any]]:
    """Returns one row a preset: name, backbone, parameters, size of the weights, LFW accuracy."""
    return [_row(presets.find_preset(name)) for name in presets.list_presets()]


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


def convert(file: str | os.PathLike[str], kind: str, out: str | os.PathLike[str]) -> pathlib.Path:
    """Turns another library's weight file into a preset.

    Args:
        file: the weights.
        kind: what they are: "dlib".
        out: the preset's folder.

    Returns:
        That folder.

    Raises:
        DataError: the file is not what `kind` says.
    """
    from spherekeras.converters import convert_dlib

    if kind != "dlib":
        raise PresetError(f"`convert` knows dlib. Received: {kind!r}.")
    template = "dlib_150x150"
    config = presets.PresetConfig(
        "DlibResNet", {"input_shape": [150, 150, 3]}, template, 150, 150, 1 / 128, 127.5
    )
    metadata = {
        "name": pathlib.Path(out).name,
        "description": "dlib's face recognition ResNet, converted.",
        "weights_licence": "CC0-1.0 (dlib_face_recognition_resnet_model_v1, Davis King)",
        "converted_from": {"file": pathlib.Path(file).name, "sha256": sha256(file)},
    }
    return FaceEmbedder(convert_dlib(file), config).save_preset(out, metadata=metadata)


def publish(
    preset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str],
    detector: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """Measures a trained preset on LFW and saves it with its card in the zoo.

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
    result = lfw(faces, data, view=2, progress=progress)
    low, high = result.interval
    metadata["metrics"] = [
        {
            "name": "LFW view 2",
            "value": f"{100 * result.accuracy:.2f} % ± {100 * result.std:.2f}",
            "accuracy": round(result.accuracy, 6),
            "protocol": result.protocol,
            "interval": f"{100 * low:.2f} to {100 * high:.2f} % (95 %, bootstrap)",
            "pairs": result.pairs,
            "pictures without a face": len(result.no_face),
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
        metadata, config = presets.read_metadata(folder), presets.read_config(folder)
    except PresetError as error:
        return {**dict.fromkeys(_COLUMNS, ""), "name": folder.name, "lfw": f"damaged: {error}"}
    measured = {metric["name"]: metric["value"] for metric in metadata.get("metrics", [])}
    depth = config.arguments.get("depth")
    return {
        "name": folder.name,
        "backbone": f"{config.backbone}{f'({depth})' if depth else ''}",
        "parameters": metadata.get("parameters", 0),
        "megabytes": round((folder / "model.weights.h5").stat().st_size / 1e6, 1),
        "lfw": measured.get("LFW view 2", "not measured"),
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
