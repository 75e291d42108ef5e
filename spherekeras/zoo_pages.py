"""The pages of a zoo: cards and one table, made from what was measured for these weights."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from spherekeras import card, presets, zoo
from spherekeras.errors import PresetError
from spherekeras.files import atomic_path

_HEAD = [
    "# Zoo",
    "",
    "Made by `make zoo` from the presets' metadata; protocol, intervals, terms and the machine",
    "of the latency (float32 TFLite, one thread) stand in each preset's card. Milliseconds",
    "compare within this table alone.",
]
_COLUMNS = {
    "backbone": "backbone",
    "parameters": "parameters",
    "multiplications": "multiplications",
    "megabytes": "MB",
    "lfw": "LFW view 2",
    "milliseconds": "ms a crop",
}


_TABLE = "| preset | backbone | parameters |"  # of every version's


def write_cards(
    folder: str | os.PathLike[str],
    latency: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Writes the cards of a zoo's presets, and its table, from what was measured.

    Args:
        folder: of presets.
        latency: measure the time of a crop anew, all presets side by side, and keep it.
        say: called with a sentence for what can be improved.

    Returns:
        Names of the presets whose files changed.

    Raises:
        PresetError: no preset, a damaged one, or one whose numbers were never measured, belong to
            other weights or to another name, or that was downloaded; no card is written then.
    """
    root = pathlib.Path(folder)
    presets.check_folder(root)
    check_table(root)
    known = {path: _measured(path) for path in sorted(root.iterdir()) if presets.is_preset(path)}
    if not known:
        raise PresetError(f"{root} holds no preset. Give the folder that holds their folders.")
    for path in known:
        presets.check_place(path)
    weights = {path.name: presets.stamp(path)["model.weights.h5"] for path in known}
    if latency:
        _time(known, weights)
    for path, metadata in known.items():
        if metadata.get("latency", {"among": weights})["among"] != weights:
            raise PresetError(
                f"The latency of {path} was measured among other presets than {root} now holds. "
                f"Measure it anew, with nothing else running: `spherekeras zoo cards {root} "
                "--latency`."
            )
        if "latency" not in metadata:
            say(f"{path.name} has no latency yet: `spherekeras zoo cards {root} --latency`.")
    changed = [path.name for path, metadata in known.items() if _write(path, metadata)]
    write_table(root)
    return changed


def check_table(root: pathlib.Path) -> None:
    """Refuses a folder whose README.md is no zoo's table.

    Raises:
        PresetError: such a page.
    """
    page = root / "README.md"
    if not page.exists():
        return
    lines = page.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] != _HEAD[:1] or not any(line.startswith(_TABLE) for line in lines):
        raise PresetError(
            f"{page} is not a zoo's table and is left as it is. Publish into a zoo, or move that "
            "page away."
        )


def write_table(root: pathlib.Path) -> None:
    """Writes the zoo's README.md from the metadata of its presets.

    Raises:
        PresetError: see `check_table`.
    """
    check_table(root)
    rows = [zoo.row(path) for path in sorted(root.iterdir()) if presets.is_preset(path)]
    lines = [
        *_HEAD,
        "",
        f"| preset | {' | '.join(_COLUMNS.values())} |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for row in rows:
        if row["place"] == "damaged":  # why is told by `zoo list`, with places of this machine
            row = {**row, "lfw": "damaged"}
        cells = " | ".join(zoo.text(row[column], column) for column in _COLUMNS)
        lines.append(f"| [{row['name']}]({row['name']}/README.md) | {cells} |")
    sound = [row["name"] for row in rows if row["lfw"] and row["place"] != "damaged"]
    moved = [f"`{n}`" for n in sound if presets.subtracts_mean(presets.read_metadata(root / n))]
    if moved:
        lines += ["", "LFW view 2 with the mean embedding subtracted, as the SphereFace release"]
        lines += [f"does: {', '.join(moved)}. The others without, which is how `verify` compares."]
    with atomic_path(root / "README.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _measured(path: pathlib.Path) -> dict[str, Any]:
    """The metadata of a preset, if its numbers are its own."""
    presets.check_files(path, but="README.md")
    metadata = presets.read_metadata(path)
    mend = f"Measure it: `spherekeras zoo publish {path} --data LFW --out {path}`."
    if not metadata.get("metrics"):
        raise PresetError(f"{path} has no measurement to make a card of. {mend}")
    if metadata.get("name") != path.name:
        raise PresetError(f"{path} is the preset {metadata.get('name')!r}. Give it its own name.")
    for name, digest in presets.stamp(path).items():
        if metadata.get("measured", {}).get(name) != digest:
            raise PresetError(f"The numbers of {path} are stale: {name} is another. {mend}")
    for metric in metadata["metrics"]:
        counted = card.headline(metric["accuracy"], metric.get("std"))
        if metric["value"] != counted:
            raise PresetError(
                f"{path / 'metadata.json'} says {metric['name']} {metric['value']}, but accuracy "
                f"and standard deviation beside it make {counted}. {mend}"
            )
    return metadata


def _write(path: pathlib.Path, metadata: dict[str, Any]) -> bool:
    files = {
        "metadata.json": presets.to_json(metadata),
        "README.md": card.card(metadata, presets.read_config(path)),
    }
    try:
        presets.check_files(path)
        same = all((path / n).read_text(encoding="utf-8") == text for n, text in files.items())
    except PresetError:  # a card changed by hand, or a checksum of one
        same = False
    if not same:
        presets.write_preset(path, files)
    return not same


def _time(known: dict[pathlib.Path, dict[str, Any]], weights: dict[str, str]) -> None:
    from spherekeras.latency import ROUNDS, latencies
    from spherekeras.provenance import processor

    times = latencies(list(known))
    for metadata, time in zip(known.values(), times, strict=True):
        metadata["latency"] = {
            "milliseconds": round(time, 2),
            "ratio": round(time / min(times), 2),
            "how": "one crop, float32 TFLite, one thread, LiteRT; the zoo's presets by turns, "
            f"median of {ROUNDS}",
            "processor": processor(),
            "among": weights,
        }
