"""A preset's model card, its numbers generated from the metadata."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherekeras.presets import PresetConfig


def card(metadata: dict[str, Any], config: "PresetConfig") -> str:
    """Returns the card as Markdown. What is not known is not written."""
    name = metadata["name"]
    lines = [f"# {name}", "", metadata.get("description", ""), ""]
    lines += _table(
        {
            "backbone": config.backbone,
            "parameters": f"{metadata['parameters']:,}",
            "embedding": f"{config.arguments.get('embedding_dim', 512)}-d",
            "crop": f"{config.height}x{config.width} {config.channel_order}, template "
            f"`{config.template}`, `(pixel - {config.offset:g}) * {config.scale:g}`",
            "mirror": config.mirror,
            **{
                key: metadata[key] for key in ("weights_licence", "code_licence") if key in metadata
            },
        }
    )
    if trained := metadata.get("trained_on"):
        lines += ["", "## Training", ""]
        lines += _table({key.replace("_", " "): value for key, value in trained.items()})
        lines += ["", "The recipe is `recipe.toml` beside this file."]
    metrics = metadata.get("metrics", [])
    if metrics:
        lines += ["", "## Measured", ""]
        for metric in metrics:
            lines += [f"**{metric['name']}: {metric['value']}**", "", metric["protocol"], ""]
            rows = {key: value for key, value in metric.items() if key not in _SHOWN}
            lines += [*_table(rows), ""] if rows else []
    if validation := metadata.get("validation"):
        lines += ["", "## Validation", ""]
        lines += _table({key.replace("_", " "): value for key, value in validation.items()})
    if thresholds := metadata.get("thresholds"):
        lines += ["", "## Thresholds", "", "| FAR | threshold | TAR | data |", "|---|---|---|---|"]
        lines += [
            f"| {t['far']:g} | {t['threshold']:.4f} | {t['tar']:.4f} | {t['data']} |"
            for t in thresholds
        ]
    if calibration := metadata.get("calibration"):
        lines += [
            "",
            f"`verify` gives a probability too ({calibration['method']}), where "
            f"{calibration['prior']:.0%} of all pairs are one person's; fitted on "
            f"{calibration['data']}.",
        ]
    for title in ("intended_use", "limits", "terms", "overlap"):
        if title in metadata:
            lines += ["", f"## {title.replace('_', ' ').capitalize()}", "", metadata[title]]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import spherekeras as sk",
        "",
        f'faces = sk.FaceEmbedder.from_preset("{name}")',
        'answer = faces.verify("a.jpg", "b.jpg")',
        "```",
    ]
    return "\n".join(lines) + "\n"


_SHOWN = ("name", "value", "protocol")


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
