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
            **_known(metadata),
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
            if kinds := metric.get("kinds"):
                lines += ["At the thresholds of the folds, by kind of picture:", ""]
                lines += [*_kinds(kinds), "", _AGES, ""]
    if people := metadata.get("held_out"):
        lines += ["## People held out", "", people["protocol"], ""]
        low, high = people["intervals"]["auc"] or ("?", "?")
        lines += _table(
            {
                "crops, people": f"{people['crops']:,}, {people['people']:,}",
                "AUC": f"{people['auc']:.5f} ({low} to {high})",
                "EER": f"{people['eer']:.2%}",
            }
        )
        if people["kinds"]:
            lines += ["", "At the threshold of FAR 0.01, by kind of picture:", ""]
            lines += _kinds(people["kinds"])
    if thresholds := metadata.get("thresholds"):
        tested = any("lfw_view_1" in row for row in thresholds)
        lines += ["", "## Thresholds", ""]
        lines += [
            "| FAR | threshold | TAR | data |" + (" on LFW view 1: TAR, FAR |" if tested else ""),
            "|---|---|---|---|" + ("---|" if tested else ""),
        ]
        for row in thresholds:
            line = f"| {row['far']:g} | {row['threshold']:.4f} | {row['tar']:.2%} | {row['data']} |"
            if tested:
                on = row["lfw_view_1"]
                line += f" {on['tar']:.1%}, {on['far']:.1%} |"
            lines.append(line)
        unmeasured = (metadata.get("held_out") or {}).get("unmeasured", {})
        lines += ["", *unmeasured.values()] if unmeasured else []
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


_SHOWN = ("kinds", "name", "value", "protocol")
_AGES = (
    "A pair is as sharp as its less sharp picture (variance of its Laplacian). LFW does "
    "not state ages, so accuracy by age is not known."
)


def _known(metadata: dict[str, Any]) -> dict[str, str]:
    """Rows on cost, where it was counted and measured."""
    rows = {}
    if count := metadata.get("multiplications"):
        rows["multiplications"] = f"{count / 1e6:,.0f} million a crop"
    if latency := metadata.get("latency"):
        rows["latency"] = (
            f"{latency['milliseconds']} ms, {latency['ratio']} times the fastest preset's "
            f"({latency['how']}; {latency['processor']})"
        )
    return rows


def _kinds(kinds: list[dict[str, Any]]) -> list[str]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    return [
        "| pairs | same | accepted | different | accepted |",
        "|---|---|---|---|---|",
        *(
            f"| {kind['name']} | {kind['same']:,} | {share(kind['tar'])} | "
            f"{kind['different']:,} | {share(kind['far'])} |"
            for kind in kinds
        ),
    ]


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
