"""What importing costs, and who may import what."""

import json
import pathlib
import subprocess
import sys

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


def test_help_loads_python_and_the_package_alone() -> None:
    code = """
import contextlib, io, json, sys
before = set(sys.modules)
from spherekeras.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    try: main(["--help"])
    except SystemExit as stop: assert stop.code == 0
assert "quickstart" in out.getvalue()
print(json.dumps(sorted({m.split(".")[0] for m in set(sys.modules) - before})))
"""
    tops = json.loads(run(code))
    assert "spherekeras" in tops
    assert [name for name in tops if name not in sys.stdlib_module_names] == ["spherekeras"]


def test_evaluation_needs_numpy_alone() -> None:
    assert loaded("import spherekeras.evaluation") == []


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in {"tensorflow", "keras", "jax", "torch", "h5py", "absl"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_a_file_embeds_and_verifies_where_keras_is_not_installed(tmp_path: pathlib.Path) -> None:
    run(
        "import spherekeras as sk\n"
        "from spherekeras.presets import PresetConfig\n"
        "config = PresetConfig('SphereFaceNet', {'depth': 4}, 'sphereface_112x96', 112, 96, 1, 0)\n"
        "faces = sk.FaceEmbedder(sk.backbones.SphereFaceNet(depth=4), config)\n"
        f"folder = faces.save_preset({str(tmp_path / 'tiny')!r})\n"
        "sk.export.to_tflite(folder, folder / sk.presets.TFLITE)\n"
        "sk.presets.write_preset(folder, {})"
    )
    code = f"""{BLOCKED}
import numpy as np, spherekeras as sk
crop = np.full((112, 96, 3), 200, np.uint8)
for faces in (
    sk.FaceEmbedder.from_preset({str(tmp_path / "tiny")!r}, runtime="litert"),
    sk.FaceEmbedder.from_tflite({str(tmp_path / "tiny" / "model.tflite")!r}),
):
    print(faces.embed(crop).shape, faces.verify(crop, crop, threshold=0.5).same)
for wanted in ("layers", "Sequential"):
    try: getattr(sk, wanted)
    except ModuleNotFoundError as error: print(error)
try: sk.load_preset({str(tmp_path / "tiny")!r})
except sk.SphereKerasError as error: print(error)
"""
    mend = "needs Keras, which is not installed. Run `pip install 'spherekeras[tensorflow]'`."
    *good, layers, sequential, preset = run(code).splitlines()
    assert good == ["(1, 512) True"] * 2
    assert (layers, sequential) == (
        f"`spherekeras.layers` {mend}",
        f"`spherekeras.Sequential` {mend}",
    )
    assert preset.startswith("A preset as a Keras model needs keras, which is not installed.")
    assert "runtime='litert'" in preset


def test_every_public_name_is_there() -> None:
    assert run(
        "import spherekeras as sk\nfor name in sk.__all__: getattr(sk, name)\nprint(sk.__version__)"
    ).strip()


def test_a_fresh_process_loads_a_saved_model(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.keras"
    run(
        "import keras, spherekeras as sk\n"
        "prelu = sk.backbones.SphereFaceNet(depth=4, embedding_dim=8, input_shape=(32, 32, 3))\n"
        "norm = sk.backbones.MobileFaceNet(embedding_dim=8, input_shape=(32, 32, 3))\n"
        f"norm.save({str(tmp_path / 'norm.keras')!r})\n"
        "model = sk.Sequential([prelu, sk.layers.ASoftmax(3)])\n"
        f"model.save({str(path)!r})"
    )
    load = f"print(type(keras.models.load_model({str(path)!r}).layers[-1]).__name__)"
    assert run(f"import keras, spherekeras\n{load}").strip() == "ASoftmax"
    load = f"print(keras.models.load_model({str(tmp_path / 'norm.keras')!r}).output_shape)"
    assert run(f"import keras, spherekeras\n{load}").strip() == "(None, 8)"


def test_an_unknown_name_is_an_attribute_error() -> None:
    code = "import spherekeras as sk\ntry: sk.nothing\nexcept AttributeError as e: print(e)"
    assert "'spherekeras' has no attribute 'nothing'" in run(code)
