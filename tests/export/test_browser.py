"""The page of examples/browser in a real browser, with onnxruntime-web from npm."""

import functools
import html
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import cv2
import numpy as np
import pytest

from spherekeras.export import to_onnx

PAGE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "browser"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder with the page and its packages, served on loopback."""
    modules = pathlib.Path(os.environ.get("SPHEREKERAS_NODE_MODULES", PAGE / "node_modules"))
    if not (modules / "onnxruntime-web").is_dir():
        pytest.skip(
            "onnxruntime-web is not there: run `npm install` in examples/browser, or set "
            "SPHEREKERAS_NODE_MODULES to a folder that holds it"
        )
    shutil.copy(PAGE / "index.html", tmp_path)
    (tmp_path / "node_modules").symlink_to(modules.resolve())
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_two_crops_are_compared(site, embedder, crops, tmp_path_factory):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    folder, address = site
    to_onnx(embedder, folder / "face.onnx", pixels="uint8")
    for name, crop in zip("ab", crops[:2], strict=True):
        cv2.imwrite(str(folder / f"{name}.png"), crop[..., ::-1])
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        *("--virtual-time-budget=120000", "--timeout=120000", "--dump-dom"),
        f"{address}/index.html?a=a.png&b=b.png",
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=200).stdout
    said = re.search("<output>(.*?)</output>", page)
    assert said and said[1].startswith("Similarity "), said and said[1]
    found = np.array(json.loads(html.unescape(re.search('data-embeddings="(.*?)"', page)[1])))
    wanted = embedder.embed(crops[:2])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert said[1] == f"Similarity {np.sum(wanted[0] * wanted[1]):.4f}"
