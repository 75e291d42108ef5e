"""What importing costs, and who may import what."""

import json
import pathlib
import subprocess
import sys
import time

HEAVY = ("keras", "tensorflow", "cv2", "onnx", "matplotlib", "h5py", "faiss", "sklearn")


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def loaded(code: str) -> list[str]:
    heavy = f"import sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    return json.loads(run(f"{code}\n{heavy}").splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import spherekeras") == []


def test_help_loads_nothing_heavy_and_is_quick() -> None:
    code = """
import contextlib, io
from spherekeras.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    try: main(["--help"])
    except SystemExit as stop: assert stop.code == 0
assert "quickstart" in out.getvalue()
"""
    assert loaded(code) == []
    started = time.perf_counter()
    run(code)
    assert time.perf_counter() - started < 3  # 0.3 s on an idle machine


def test_evaluation_needs_numpy_alone() -> None:
    assert loaded("import spherekeras.evaluation") == []


def test_every_public_name_is_there() -> None:
    assert run(
        "import spherekeras as sk\nfor name in sk.__all__: getattr(sk, name)\nprint(sk.__version__)"
    ).strip()


def test_a_fresh_process_loads_a_saved_model(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.keras"
    run(
        "import keras, spherekeras as sk\n"
        "model = sk.Sequential([keras.Input((4,)), sk.layers.ASoftmax(3)])\n"
        f"model.save({str(path)!r})"
    )
    load = f"print(type(keras.models.load_model({str(path)!r}).layers[-1]).__name__)"
    assert run(f"import keras, spherekeras\n{load}").strip() == "ASoftmax"


def test_an_unknown_name_is_an_attribute_error() -> None:
    code = "import spherekeras as sk\ntry: sk.nothing\nexcept AttributeError as e: print(e)"
    assert "'spherekeras' has no attribute 'nothing'" in run(code)
