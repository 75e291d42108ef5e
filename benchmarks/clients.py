"""Do other people's programs give Keras' embeddings? A preset's files in each, on real crops.

    python benchmarks/clients.py PRESET RECORDS [--mediapipe PYTHON] [--node-modules FOLDER]

MediaPipe needs an environment of its own (its python is what is asked for) and the browser a
Chromium and a folder with onnxruntime-web; without them their rows are left out, and it says so.
The CSV has the smallest cosine of every client and file, and the bound that the export keeps. The
int8 file is calibrated on other crops than those.
"""

import argparse
import csv
import functools
import html
import http.server
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version

import cv2
import numpy as np
from tqdm import tqdm

import spherekeras as sk
from spherekeras.data.records import open_records
from spherekeras.export import parity
from spherekeras.export.onnx import open_session
from spherekeras.files import atomic_path
from spherekeras.litert import LiteRTModel
from spherekeras.provenance import processor
from spherekeras.teacher import turned

OUT = pathlib.Path(__file__).with_suffix(".csv")
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
PICTURES, IN_THE_BROWSER, CALIBRATING = 500, 20, 300

Answers = tuple[str, str, str, np.ndarray]
"""The client, the file, its precision, the embeddings."""


def in_python(
    faces: sk.FaceEmbedder, calibrating: np.ndarray, crops: np.ndarray, folder: pathlib.Path
) -> Iterator[Answers]:
    """LiteRT, ONNX Runtime, OpenCV's dnn and its face recogniser."""

    def each(run: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
        return np.concatenate([np.array(run(one[None])) for one in tqdm(inputs, leave=False)])

    pixels = crops.astype(np.float32)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def dnn(network: cv2.dnn.Net) -> np.ndarray:
        def run(one: np.ndarray) -> np.ndarray:
            network.setInput(one)
            return network.forward()

        return each(run, planes)

    for precision in parity.TOLERANCES:
        path = folder / f"{precision}.tflite"
        sk.export.to_tflite(faces, path, precision, calibrating)
        yield "LiteRT", f"TFLite {precision}", precision, each(LiteRTModel(path, 1), pixels)
        if precision in ("float32", "float16"):
            network = cv2.dnn.readNetFromTFLite(str(path))
            yield "OpenCV dnn", f"TFLite {precision}", precision, dnn(network)
    for layout, given in (("NHWC", pixels), ("NCHW", planes)):
        path = folder / f"{layout}.onnx"
        sk.export.to_onnx(faces, path, layout=layout)
        session = open_session(path, 1)
        run = functools.partial(session.run, None)
        found = each(lambda one, run=run: run({"image": one})[0], given)
        yield "ONNX Runtime", f"ONNX {layout}", "float32", found
    yield "OpenCV dnn", "ONNX NCHW", "float32", dnn(cv2.dnn.readNetFromONNX(str(path)))


def in_the_recogniser(
    faces: sk.FaceEmbedder, wide: np.ndarray, folder: pathlib.Path
) -> Iterator[Answers]:
    """OpenCV's face recogniser, which takes 112x112 BGR crops."""
    path = folder / "recogniser.onnx"
    sk.export.to_onnx(faces, path, layout="NCHW", template="arcface_112x112")
    recogniser = cv2.FaceRecognizerSF.create(str(path), "")
    found = [recogniser.feature(np.ascontiguousarray(crop[..., ::-1])).copy() for crop in wide]
    yield "OpenCV FaceRecognizerSF", "ONNX NCHW", "float32", np.concatenate(found)


def in_mediapipe(python: str, crops: np.ndarray, folder: pathlib.Path) -> Iterator[Answers]:
    """Its image embedder."""
    np.save(folder / "crops.npy", crops)
    for precision in parity.TOLERANCES:
        command = [python, str(EXAMPLES / "mediapipe" / "client.py")]
        command += [str(folder / f"{precision}.tflite"), str(folder / "crops.npy")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = np.array(json.loads(said.splitlines()[-1]))
        yield "MediaPipe ImageEmbedder", f"TFLite {precision}", precision, found


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def visit(command: list[str]) -> list[list[float]]:
    """Returns the two embeddings that the page leaves in itself.

    The browser's virtual clock can run out while a busy machine still compiles the runtime, so a
    page without an answer is visited again, twice.
    """
    for _ in range(3):
        page = subprocess.run(command, capture_output=True, text=True, timeout=200).stdout
        said = re.search('data-embeddings="(.*?)"', page)
        if said:
            return json.loads(html.unescape(said[1]))
    said = re.search("<output>(.*?)</output>", page)
    raise SystemExit(f"the page gave no embeddings: {said and said[1]}")


def in_the_browser(
    faces: sk.FaceEmbedder, modules: pathlib.Path, crops: np.ndarray, folder: pathlib.Path
) -> Iterator[Answers]:
    """The page of examples/browser in headless Chromium, two pictures a visit."""
    site = folder / "site"
    site.mkdir()
    shutil.copy(EXAMPLES / "browser" / "index.html", site)
    (site / "node_modules").symlink_to(modules.resolve())
    sk.export.to_onnx(faces, site / "face.onnx", pixels="uint8")
    for place, crop in enumerate(crops):
        cv2.imwrite(str(site / f"{place}.png"), crop[..., ::-1])
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found = []
    try:
        for place in tqdm(range(0, len(crops), 2), leave=False):
            pair = f"a={place}.png&b={place + 1}.png"
            command = [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", f"--user-data-dir={folder / 'profile'}"),
                *("--virtual-time-budget=120000", "--timeout=120000", "--dump-dom"),
                f"http://127.0.0.1:{server.server_port}/index.html?{pair}",
            ]
            found += visit(command)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    yield "onnxruntime-web in Chromium", "ONNX NHWC uint8", "float32", np.array(found)


def main() -> None:
    """Asks every client, prints and writes the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("records")
    parser.add_argument("--mediapipe", metavar="PYTHON")
    parser.add_argument("--node-modules", metavar="FOLDER", type=pathlib.Path)
    asked = parser.parse_args()
    faces, people = sk.load_preset(asked.preset), open_records(asked.records)
    chosen = np.linspace(0, len(people) - 1, PICTURES).astype(int)
    others = np.setdiff1d(np.linspace(1, len(people) - 2, CALIBRATING).astype(int), chosen)
    calibrating = turned(people, others, faces.config)
    crops = np.ascontiguousarray(turned(people, chosen, faces.config))
    wanted = faces.embed(crops)
    packages = ("ai-edge-litert", "onnxruntime", "opencv-python-headless", "keras")
    told = {
        "preset": pathlib.Path(asked.preset).name,
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    with (
        tempfile.TemporaryDirectory() as kept,
        atomic_path(OUT) as temporary,
        temporary.open("w", newline="") as file,
    ):
        folder = pathlib.Path(kept)
        rows = csv.writer(file)
        head = ["client", "file", "pictures", "min_cosine", "bound", "max_difference", *told]
        rows.writerow(head)

        def tell(answers: Iterator[Answers]) -> None:
            for client, name, precision, found in answers:
                right = wanted[: len(found)].astype(np.float64)
                length = np.linalg.norm(found.astype(np.float64), axis=1)
                cosines = np.sum(found * right, axis=1) / length / np.linalg.norm(right, axis=1)
                numbers = [f"{cosines.min():.7f}", parity.TOLERANCES[precision]]
                numbers += [f"{np.abs(found - right).max():.1e}"]
                rows.writerow([client, name, len(found), *numbers, *told.values()])
                print(f"{client:28} {name:16} {len(found):4}  {numbers[0]}  {numbers[1]}")

        tell(in_python(faces, calibrating, crops, folder))
        if (
            faces.config.template == "sphereface_112x96"
            and people.crops(chosen[:1]).shape[2] == 112
        ):
            tell(in_the_recogniser(faces, people.crops(chosen), folder))
        else:
            print("OpenCV's FaceRecognizerSF left out: it takes 112x112 crops and such a network")
        if asked.mediapipe:
            tell(in_mediapipe(asked.mediapipe, crops, folder))
        else:
            print("MediaPipe left out: name its environment's python, --mediapipe PYTHON")
        if asked.node_modules and shutil.which("chromium"):
            tell(in_the_browser(faces, asked.node_modules, crops[:IN_THE_BROWSER], folder))
        else:
            print("The browser left out: it needs chromium and --node-modules FOLDER")


if __name__ == "__main__":
    main()
