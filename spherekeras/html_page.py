"""HTML pages in one file: no network, no library, one look in light and in dark.

A content security policy forbids all that the file does not hold itself: pictures are inline JPEG,
and style and script run by the hash of their text.
"""

import base64
import hashlib
import html
import os
from collections.abc import Iterable, Mapping

import numpy as np

from spherekeras.errors import DataError
from spherekeras.files import atomic_path

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f9; --card: #fff; --ink: #1d2330; --soft: #5d6678;
  --line: #e2e6ee; --accent: #3557d6; --same: #0b7d72; --different: #b64a16; --good: #0b7a55;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #12151c; --card: #1b2029; --ink: #e9ecf3;
  --soft: #9aa4b7; --line: #2d3442; --accent: #8fa8ff; --same: #3fc9ba; --different: #ff9a63;
  --good: #56d3a2; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui,
  -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; display: grid; gap: 18px;
  grid-template-columns: repeat(2, minmax(0, 1fr)); }
header, section { grid-column: span 2; min-width: 0; }
.two { grid-column: span 1; }
header p { margin: 0; color: var(--soft); max-width: 70ch; }
h1 { font-size: clamp(1.45rem, 4.2vw, 2.1rem); line-height: 1.25; margin: 0 0 .4em;
  letter-spacing: -.01em; text-wrap: balance; overflow-wrap: anywhere; }
h1 b { color: var(--accent); font-weight: 700; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 16px 18px; }
h2 { font-size: 1.02rem; margin: 0 0 .4em; }
section p { color: var(--soft); font-size: .9rem; margin: .5em 0 0; overflow-wrap: anywhere; }
section h2 + p { margin: 0 0 1em; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
@media (max-width: 760px) { .two { grid-column: span 2; } svg text { font-size: 14px; } }
.curve { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.chance { fill: none; stroke: var(--soft); stroke-dasharray: 4 4; }
.limit { stroke: var(--ink); stroke-width: .75; } circle { fill: var(--accent); }
.same { fill: var(--same); } .different { fill: var(--different); } rect { fill-opacity: .62; }
.key { font-weight: 600; display: inline-block; margin-right: 1em; }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em;
  border-radius: 3px; margin-right: .4em; background: currentColor; }
.key.same { color: var(--same); } .key.different { color: var(--different); }
figure { margin: 0; text-align: center; } figure img { border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .45em 1.2em .45em 0; border-top: 1px solid var(--line);
  vertical-align: top; } tbody th { font-weight: 600; }
.facts th { width: 34%; color: var(--soft); } .facts td { overflow-wrap: anywhere; }
"""


def text(value: object) -> str:
    """Returns a value as text that no HTML can be hidden in, attributes included.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    told = str(value).encode("utf-8", "backslashreplace").decode()  # of names in no encoding
    return html.escape(told, quote=True)


def section(title: str, body: str, kind: str = "") -> str:
    """Returns a card with a heading; of `kind` "two" it takes half of a wide page.

    >>> section("A & B", "<p>c</p>")
    '<section class="">\\n<h2>A &amp; B</h2>\\n<p>c</p>\\n</section>'
    """
    return f'<section class="{kind}">\n<h2>{text(title)}</h2>\n{body}\n</section>'


def facts(rows: Mapping[str, object]) -> str:
    """Returns a table of names and values.

    >>> facts({"keras": 3})
    '<table class="facts"><tbody><tr><th scope="row">keras</th><td>3</td></tr></tbody></table>'
    """
    cells = (
        f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>'
        for key, value in rows.items()
    )
    return f'<table class="facts"><tbody>{"".join(cells)}</tbody></table>'


def image(pixels: np.ndarray, alt: str, height: int) -> str:
    """Returns a picture as an inline JPEG.

    Args:
        pixels: RGB uint8 `(height, width, 3)`.
        alt: what it shows, for those who do not see it.
        height: on the page, in CSS pixels.

    Raises:
        DataError: on other pixels.
    """
    import cv2

    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError(
            "Pictures and crops are expected as RGB uint8 arrays of shape (height, width, 3). "
            f"Received: shape={pixels.shape}, dtype={pixels.dtype}. Pass what "
            "`FaceEmbedder.crop` returns."
        )
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    width = round(pixels.shape[1] * height / pixels.shape[0])
    code = base64.b64encode(data.tobytes()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{code}" alt="{text(alt)}" width="{width}" '
        f'height="{height}">'
    )


def write(
    path: str | os.PathLike[str],
    title: str,
    parts: Iterable[str],
    style: str = "",
    script: str = "",
) -> None:
    """Writes a page; the same arguments give the same bytes.

    Args:
        path: the file, usually `*.html`.
        title: of the window.
        parts: of the page, as HTML: a header and sections; empty ones are left out.
        style: CSS beside that of every page.
        script: JavaScript, if it needs any.

    Example:

    >>> import pathlib, tempfile
    >>> page = pathlib.Path(tempfile.mkdtemp()) / "page.html"
    >>> write(page, "A page", ["<header><h1>A page</h1></header>", section("One", "<p>1</p>")])
    >>> page.read_text(encoding="utf-8").startswith("<!doctype html>")
    True
    """
    style = _STYLE + style
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}"
    if script:
        policy += f"; script-src {_hash(script)}"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
