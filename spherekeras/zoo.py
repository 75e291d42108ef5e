"""The zoo: presets listed, checked, and published with their measurements."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spherekeras import presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import SphereKerasError
from spherekeras.evaluation import lfw
from spherekeras.files import atomic_path

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
            "command": f"spherekeras evaluate {pathlib.Path(out).name} --protocol lfw --data LFW",
        }
    ]
    metadata["versions"] = {
        name: importlib.metadata.version(name)
        for name in ("keras", "numpy", "opencv-python-headless")
    } | {"python": platform.python_version(), "commit": _commit()}
    recipe = (pathlib.Path(faces.folder or preset) / "recipe.toml").read_text(encoding="utf-8")
    folder = faces.save_preset(out, metadata=metadata, recipe=recipe)
    write_table(folder.parent)
    return folder


def write_table(zoo: pathlib.Path) -> None:
    """Writes the zoo's README.md from the metadata of its presets."""
    table = [_row(f) for f in sorted(zoo.iterdir()) if (f / "config.json").is_file()]
    lines = [
        "# Zoo",
        "",
        "Generated from the presets' metadata by `spherekeras zoo publish`; protocol, interval and",
        "terms stand in each preset's card.",
        "",
        "| preset | backbone | parameters | weights | LFW view 2 |",
        "|---|---|---|---|---|",
        *(
            f"| [{r['name']}]({r['name']}/README.md) | {r['backbone']} | {r['parameters']:,} | "
            f"{r['megabytes']} MB | {r['lfw']} |"
            for r in table
        ),
    ]
    with atomic_path(zoo / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(folder: pathlib.Path) -> dict[str, Any]:
    metadata, config = presets.read_metadata(folder), presets.read_config(folder)
    measured = {metric["name"]: metric["value"] for metric in metadata.get("metrics", [])}
    depth = config.arguments.get("depth")
    return {
        "name": folder.name,
        "backbone": f"{config.backbone}{f'({depth})' if depth else ''}",
        "parameters": metadata["parameters"],
        "megabytes": round((folder / "model.weights.h5").stat().st_size / 1e6, 1),
        "lfw": measured.get("LFW view 2", "not measured"),
    }


def _commit() -> str:
    root = pathlib.Path(__file__).resolve().parent.parent
    run = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"
