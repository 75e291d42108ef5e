"""Pages in one file: self-contained, escaped, readable, and refused early where they must be."""

import base64
import hashlib
import pathlib
import re

import cv2
import numpy as np
import pytest

from spherekeras import html_page
from spherekeras.errors import DataError

EVIL = "<script>alert('&\")</script>"


@pytest.fixture
def page(tmp_path: pathlib.Path) -> str:
    parts = [html_page.section(EVIL, html_page.facts({EVIL: EVIL})), ""]
    html_page.write(tmp_path / "page.html", EVIL, parts, ".own { color: red; }", "let x = 1;")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_text_is_escaped(page: str) -> None:
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(&#x27;&amp;&quot;)&lt;/script&gt;") == 4


def test_names_in_no_encoding_are_told(tmp_path: pathlib.Path) -> None:
    html_page.write(tmp_path / "a.html", "a\udcfc.jpg", [], "", "")
    assert "<title>a\\udcfc.jpg</title>" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_the_policy_allows_the_pages_own_style_and_script_alone(page: str) -> None:
    policy = re.search('Content-Security-Policy" content="([^"]+)"', page).group(1)
    style = re.search("<style>(.*?)</style>", page, re.S).group(1)
    script = re.search("<script>(.*?)</script>", page, re.S).group(1)
    assert style.endswith(".own { color: red; }") and script == "let x = 1;"
    hashes = [
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        for source in (style, script)
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'"
    )


def test_a_page_without_a_script_allows_none(tmp_path: pathlib.Path) -> None:
    html_page.write(tmp_path / "page.html", "A page", [])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "script" not in text and "http" not in text.replace("http-equiv", "")


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = np.array(list(bytes.fromhex(digits))) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_stands_out_in_light_and_in_dark(page: str) -> None:
    schemes = re.findall(r":root \{(.*?)\}", page, re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): #(\w+)", scheme))
        for ground in ("page", "card"):
            for ink in ("ink", "soft", "accent", "same", "different", "good", "bad"):
                pair = sorted(_luminance(colours[name]) for name in (ground, ink))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ground, ink)


def test_an_image_comes_back() -> None:
    ramp = np.linspace(0, 255, 40 * 30).reshape(40, 30, 1).astype(np.uint8)
    pixels = np.concatenate([ramp, 255 - ramp, ramp // 2], 2)
    tag = html_page.image(pixels, EVIL, 80)
    assert EVIL not in tag and 'width="60" height="80"' in tag
    data = base64.b64decode(re.search('base64,([^"]+)"', tag).group(1))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - pixels).mean() < 8


def test_pixels_of_another_kind_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape=\(4, 4\), dtype=float64"):
        html_page.image(np.ones((4, 4)), "", 80)


def test_a_page_is_whole_or_not_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    html_page.write(path, "old", [])
    old = path.read_bytes()

    def full(half: pathlib.Path, text: str, **options: str) -> None:
        half.write_bytes(text.encode()[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        html_page.write(path, "new", [])
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
