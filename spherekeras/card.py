"""A preset's model card, its numbers generated from the metadata."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spherekeras.presets import PresetConfig


def card(metadata: dict[str, Any], config: "PresetConfig") -> str:
    """Returns the card as Markdown. What is not known is not written.

    Args:
        metadata: a preset's, as `publishing.publish` or training leaves it.
        config: the preset's.
    """
    sections = [
        _section(f"# {metadata['name']}", metadata.get("description", ""), _facts(metadata, config))
    ]
    if trained := metadata.get("trained_on"):
        rows = {key.replace("_", " "): _count(value) for key, value in trained.items()}
        recipe = "The recipe is `recipe.toml` beside this file."
        sections.append(_section("## Training", _table(rows), recipe))
    if before := metadata.get("changed_from"):
        text = f"These weights began as the preset {before['name']!r} and were changed since; by "
        text += "what and on whose pictures is not recorded here. Licence, terms and limits on "
        text += "this page are that preset's; the pictures used since add their own."
        sections.append(_section("## Training", text))
    sections += [_metric(metric) for metric in metadata.get("metrics", [])]
    if people := metadata.get("held_out"):
        sections.append(_held_out(people))
    thresholds, calibration = metadata.get("thresholds", []), metadata.get("calibration")
    if thresholds or calibration:
        sections.append(_thresholds(thresholds, calibration))
    if files := metadata.get("files"):
        sections.append(_files(files))
    for key in ("intended_use", "limits", "terms", "overlap"):
        if key in metadata:
            sections.append(_section(f"## {_words(key)}", metadata[key]))
    code = [
        "```python",
        "import spherekeras as sk",
        "",
        f'faces = sk.FaceEmbedder.from_preset("{metadata["name"]}")',
        'answer = faces.verify("a.jpg", "b.jpg")',
        "```",
    ]
    sections.append(_section("## Use", "\n".join(code)))
    return "\n\n".join(sections) + "\n"


def percent(value: float) -> str:
    """Returns a share as the field writes it.

    Example:

    >>> percent(0.9855)
    '98.55 %'
    """
    return f"{100 * value:.2f} %"


def headline(accuracy: float, std: float | None) -> str:
    """Returns an accuracy with the standard deviation of its folds, where it has folds.

    Example:

    >>> headline(0.9855, 0.0063), headline(0.977, None)
    ('98.55 % ± 0.63', '97.70 %')
    """
    return percent(accuracy) + ("" if std is None else f" ± {100 * std:.2f}")


def _facts(metadata: dict[str, Any], config: "PresetConfig") -> str:
    kind = ", ".join(
        f"{key} {value}"
        for key, value in config.arguments.items()
        if key not in ("embedding_dim", "input_shape")
    )
    rows = {
        "backbone": f"{config.backbone}{f' ({kind})' if kind else ''}",
        "parameters": f"{metadata['parameters']:,}",
    }
    if count := metadata.get("multiplications"):
        rows["multiplications"] = f"{count / 1e6:,.0f} million a crop"
    if latency := metadata.get("latency"):
        rows["latency"] = (
            f"{latency['milliseconds']} ms, {latency['ratio']:.2f} times that of the zoo's fastest "
            f"({latency['how']}; {latency['processor']}; compare it within the zoo's table alone)"
        )
    if width := metadata.get("embedding"):
        rows["embedding"] = f"{width}-d"
    rows["crop"] = (
        f"{config.height}x{config.width} {config.channel_order}, template `{config.template}`, "
        f"`(pixel - {config.offset:g}) * {config.scale:g}`"
    )
    rows["mirror image"] = {"none": "not used", "sum": "added", "concat": "concatenated"}[
        config.mirror
    ]
    for key in ("weights_licence", "code_licence"):
        if key in metadata:
            rows[_words(key).lower()] = metadata[key]
    if source := metadata.get("converted_from"):
        rows["converted from"] = f"{source['file']}, SHA-256 `{source['sha256']}`"
    return _table(rows)


def _metric(metric: dict[str, Any]) -> str:
    intervals = metric["intervals"]
    faceless = f"{metric['no_face']:,} of {metric['pictures']:,}"
    rows = {
        "pairs": f"{metric['pairs']:,}",
        "pictures without a face": f"{faceless}; detector {metric['detector']}",
        "accuracy": percent(metric["accuracy"]) + _between(intervals["accuracy"]),
        "AUC": f"{metric['auc']:.5f}{_between(intervals['auc'], '{:.5f}')}",
        "EER": percent(metric["eer"]) + _between(intervals["eer"]),
    }
    for far, tar in metric["tar_at_far"].items():
        reason = metric["unmeasured"].get(far)
        found = percent(tar) + _between(intervals[f"tar_at_far_{far}"]) if not reason else ""
        rows[f"TAR at FAR {far}"] = found or f"not measured: {reason}"
    rows["command"] = f"`{metric['command']}`"
    rows["measured with"] = metric["measured_with"]
    parts = [f"## {metric['name']}: {metric['value']}", metric["protocol"], _table(rows)]
    if chosen := metric.get("chosen"):
        parts += [chosen]
    if kinds := metric.get("kinds"):
        parts += ["What the thresholds of the folds accept, by kind of picture:", _kinds(kinds)]
        parts += [f"{_SHARP} LFW does not state ages, so accuracy by age is not known."]
    return _section(*parts)


def _held_out(people: dict[str, Any]) -> str:
    intervals = people["intervals"]
    rows = {
        "crops, people": f"{people['crops']:,}, {people['people']:,}",
        "AUC": f"{people['auc']:.5f}{_between(intervals['auc'], '{:.5f}')}",
        "EER": percent(people["eer"]) + _between(intervals["eer"]),
    }
    parts = [f"## {people['title']}", people["protocol"], _table(rows)]
    if kinds := people["kinds"]:
        parts += ["What the threshold of FAR 0.01 accepts, by kind of picture:", _kinds(kinds)]
        parts += [f"{_SHARP} These pictures carry no ages."]
    return _section(*parts)


_SHARP = "A pair is as sharp as its less sharp picture (variance of the crop's Laplacian)."


def _thresholds(thresholds: Sequence[dict[str, Any]], calibration: dict[str, Any] | None) -> str:
    head = ["FAR", "threshold", "TAR", "data"]
    lines = [
        [f"{t['far']:g}", f"{t['threshold']:.4f}", percent(t["tar"]), t["data"]] for t in thresholds
    ]
    if all("lfw_view_1" in row for row in thresholds):
        head.append("on LFW view 1: same accepted, different accepted")
        for line, row in zip(lines, thresholds, strict=True):
            on = row["lfw_view_1"]
            line.append(
                f"{on['same_accepted']} of {on['same']}, "
                f"{on['different_accepted']} of {on['different']}"
            )
    table = [head, ["---"] * len(head), *lines] if lines else []
    parts = ["## Thresholds", "\n".join(f"| {' | '.join(line)} |" for line in table)]
    if table:
        parts.append(
            "FAR and TAR are those on the data named; on other pictures they differ. `verify` "
            "compares as here, with no mean subtracted."
        )
    if calibration:
        parts.append(
            f"`verify` gives a probability too ({calibration['method']}), where "
            f"{100 * calibration['prior']:g}% of all pairs are one person's; fitted on "
            f"{calibration['data']}."
        )
    return _section(*parts)


def _files(files: dict[str, Any]) -> str:
    head = ["file", "MB", "min cosine", "LFW view 2", "change", "TAR change at FAR 0.01, 0.001"]
    head += ["ms, 1 and 2 threads", "threshold at FAR 0.01"]
    lines = [head, ["---"] * len(head)]
    for row in files["rows"]:
        if "refused" in row:
            lines.append([row["name"], *[""] * (len(head) - 2), row["refused"]])
            continue
        usual = [t for t in row.get("thresholds", []) if t["far"] == 0.01]
        lines.append(
            [
                row["name"],
                f"{row['bytes'] / 1e6:.2f}",
                f"{row['min_cosine']:.7f}",
                percent(row["accuracy"]),
                f"{100 * row['change']:+.2f}",
                ", ".join(
                    f"{100 * row['tar_change'][far]:+.2f}"
                    for far in ("0.01", "0.001")
                    if far in row["tar_change"]
                ),
                ", ".join(f"{time:g}" for time in row.get("milliseconds", [])),
                f"{usual[0]['threshold']:.4f}" if usual else "",
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    how = f"{files['how'][0].upper()}{files['how'][1:]}."
    return _section("## As a file", table, f"{how} Times compare within this table alone.")


def _kinds(kinds: Sequence[dict[str, Any]]) -> str:
    def share(value: float | None) -> str:
        return "" if value is None else percent(value)

    rows = [
        f"| {kind['name']} | {kind['same']:,} | {share(kind['tar'])} | {kind['different']:,} | "
        f"{share(kind['far'])} |"
        for kind in kinds
    ]
    head = "| pairs | same | same accepted (TAR) | different | different accepted (FAR) |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _between(interval: Sequence[float] | None, form: str = "") -> str:
    if interval is None:
        return ""
    low, high = (form.format(value) if form else f"{100 * value:.2f}" for value in interval)
    return f" ({low} to {high}{'' if form else ' %'})"


def _section(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    )


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value}"
