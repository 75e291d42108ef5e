"""The core computes the same on the TensorFlow, JAX and torch backends.

A backend is chosen when Keras is imported, so each has a process of its own: this file, run as
a program, computes a fixed scenario and writes its numbers, which the tests compare. NumPy draws
all weights, so no backend's random numbers take part. In each process the two other backends
cannot be imported, as on a machine that has one of them.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
CLASSES, DIM, BATCH, STEPS = 5, 6, 4, 10
CROP = (32, 32, 3)
Numbers = dict[str, np.ndarray]


def run(backend: str, folder: pathlib.Path) -> Numbers:
    """The numbers of one backend, from a process of its own."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so nothing was compared with it")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "SPHEREKERAS_ZOO": str(folder / "tensorflow"),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{backend}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    with np.load(folder / backend / "numbers.npz") as numbers:
        return dict(numbers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module", params=BACKENDS[1:])
def backend(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed, so it was not compared")
    return str(request.param)


@pytest.fixture(scope="module")
def expected(folder: pathlib.Path) -> Numbers:
    return run("tensorflow", folder)


@pytest.fixture(scope="module")
def numbers(backend: str, expected: Numbers, folder: pathlib.Path) -> Numbers:
    return run(backend, folder)


def compare(numbers: Numbers, expected: Numbers, part: str, atol: float) -> None:
    keys = [key for key in expected if key.startswith(part)]
    assert keys == [key for key in numbers if key.startswith(part)] != []
    for key in keys:
        assert np.isfinite(expected[key]).all(), key
        np.testing.assert_allclose(numbers[key], expected[key], rtol=1e-5, atol=atol, err_msg=key)


@pytest.mark.parametrize(
    ("part", "atol"),
    [
        ("margins/", 1e-5),
        ("heads/", 1e-5),
        ("fit/", 1e-5),
        ("reload/", 1e-5),
        ("forward/", 1e-4),
        ("train/", 1e-4),
        ("preset/", 1e-4),
    ],
)
def test_numbers_are_those_of_tensorflow(
    numbers: Numbers, expected: Numbers, part: str, atol: float
) -> None:
    compare(numbers, expected, part, atol)


@pytest.mark.parametrize("head", ["ASoftmax", "MarginLinear"])
def test_sequential_functional_and_compiled_forms_agree(numbers: Numbers, head: str) -> None:
    forms = sorted({key.split("/")[2] for key in numbers if key.startswith(f"fit/{head}/")})
    assert forms == ["functional", "sequential", "sequential jit"]
    for key in [key for key in numbers if key.startswith(f"fit/{head}/functional/")]:
        for form in forms[1:]:
            other = numbers[key.replace("functional", form)]
            np.testing.assert_allclose(other, numbers[key], atol=1e-5, err_msg=f"{form} {key}")


def test_annealing_and_target_angle_move_in_training_alone(numbers: Numbers) -> None:
    for form in ("functional", "sequential", "sequential jit"):
        angle = numbers[f"fit/ASoftmax/{form}/angle after fit"]
        assert numbers[f"fit/ASoftmax/{form}/step after fit"] == STEPS
        assert numbers[f"fit/ASoftmax/{form}/step after evaluate"] == STEPS
        assert angle != np.float32(np.pi / 2)
        assert numbers[f"fit/ASoftmax/{form}/angle after evaluate"] == angle


def test_a_model_saved_on_another_backend_loads_on_this_one(
    backend: str, numbers: Numbers, folder: pathlib.Path
) -> None:
    import keras

    x, _ = vectors()
    model = keras.models.load_model(folder / backend / "model.keras")
    np.testing.assert_allclose(
        model.predict(x, verbose=0), numbers["reload/own logits"], rtol=1e-5, atol=1e-5
    )
    assert int(model.layers[-1].step) == STEPS


def test_the_same_weights_are_the_same_preset_bytes(
    backend: str, numbers: Numbers, folder: pathlib.Path
) -> None:
    for file in ("model.weights.h5", "config.json", "metadata.json", "README.md"):
        ours = (folder / backend / "tiny" / file).read_bytes()
        assert ours == (folder / "tensorflow" / "tiny" / file).read_bytes(), file


def test_a_label_out_of_range_is_never_silently_wrong(numbers: Numbers) -> None:
    assert numbers["bad label/eager"].all() and numbers["bad label/compiled"].all()


def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size = BATCH * STEPS
    return rng.normal(size=(size, DIM)).astype("float32"), rng.integers(0, CLASSES, size)


def draw(model: Any, seed: int) -> Any:
    """Gives a model weights that depend on their shapes and order alone."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape).astype("float32"))
        elif weight.name == "alpha":
            weight.assign(rng.uniform(0.0, 0.5, weight.shape).astype("float32"))
        elif weight.name in ("kernel", "bias", "beta", "moving_mean"):
            fan_in = max(np.prod(weight.shape[:-1]), 9)
            weight.assign((rng.normal(size=weight.shape) / np.sqrt(fan_in)).astype("float32"))
    return model


def gradients(function: Callable[..., Any], *values: np.ndarray) -> list[np.ndarray]:
    """The gradients of a scalar function in each of its arguments."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = function(*tensors)
        return [gradient.numpy() for gradient in tape.gradient(total, tensors)]
    if keras.backend.backend() == "jax":
        import jax

        derivative = jax.jit(jax.grad(function, argnums=tuple(range(len(values)))))
        return [np.asarray(gradient) for gradient in derivative(*values)]
    import torch

    tensors = [torch.tensor(value, requires_grad=True) for value in values]
    function(*tensors).backward()
    return [tensor.grad.numpy() for tensor in tensors]


def margins_scenario(out: Numbers) -> None:
    from keras import ops

    from spherekeras import margins

    cosine = np.linspace(-1, 1, 202).astype("float32")  # both ends, and off every joint
    formulas: dict[str, Callable[[Any], Any]] = {
        "angle": margins.angle,
        "psi 4": lambda c: margins.psi(c, 4),
        "psi 1.5": lambda c: margins.psi(c, 1.5),
        "combined": lambda c: margins.combined(c, 0.9, 0.4, 0.15),
    }
    for name, formula in formulas.items():
        out[f"margins/{name}/value"] = ops.convert_to_numpy(formula(ops.convert_to_tensor(cosine)))
        slope = gradients(lambda c, formula=formula: ops.sum(formula(c)), cosine)[0]
        out[f"margins/{name}/slope"] = slope
    for step in (0, 1, 1658, 10**6):
        weight = margins.annealing_lambda(step, 1000.0, 0.12, 1.0, 5.0)
        out[f"margins/lambda {step}"] = ops.convert_to_numpy(weight)


def heads_scenario(out: Numbers) -> None:
    import keras
    from keras import ops

    import spherekeras as sk

    rng = np.random.default_rng(1)
    x = rng.normal(size=(BATCH, DIM)).astype("float32")
    kernel = rng.normal(size=(DIM, CLASSES)).astype("float32")
    weights = rng.normal(size=(BATCH, CLASSES)).astype("float32")
    labels = np.array([0, 4, 2, 2])
    heads: dict[str, Callable[[str], Any]] = {
        "ASoftmax": lambda g: sk.layers.ASoftmax(CLASSES, gradient=g),
        "ASoftmax psi": lambda g: sk.layers.ASoftmax(CLASSES, annealing=None, gradient=g),
        "ASoftmax 1.5": lambda g: sk.layers.ASoftmax(CLASSES, 1.5, None, gradient=g),
        "ArcFace": lambda g: sk.layers.MarginLinear(CLASSES, gradient=g),
        "combined": lambda g: sk.layers.MarginLinear(CLASSES, 1.2, 0.3, 0.2, 30.0, gradient=g),
    }
    for name, make in heads.items():
        for gradient in ("exact", "detached"):
            head = make(gradient)
            head.build(x.shape)
            head.kernel.assign(kernel)

            def total(x: Any, kernel: Any, head: Any = head) -> Any:
                with keras.StatelessScope([(head.kernel, kernel)]):
                    return ops.sum(head(x, labels) * weights)

            key = f"heads/{name}/{gradient}"
            out[f"{key}/by x"], out[f"{key}/by kernel"] = gradients(total, x, kernel)
            out[f"{key}/free"] = ops.convert_to_numpy(head(x))
            out[f"{key}/angles"] = ops.convert_to_numpy(head.angles(x))
            for dtype, shape in (("int64", (-1,)), ("uint8", (-1, 1)), ("int32", (-1,))):
                given = ops.convert_to_tensor(labels.astype(dtype).reshape(shape))
                out[f"{key}/{dtype}"] = ops.convert_to_numpy(head(x, given))
            head(x, labels, training=True)
            out[f"{key}/target angle"] = ops.convert_to_numpy(head.target_angle)
            if name == "ASoftmax":
                out[f"{key}/lambda"] = np.float32(head.annealing_lambda())
    keras.config.set_dtype_policy("mixed_bfloat16")
    head = sk.layers.ASoftmax(CLASSES)
    head.build(x.shape)
    head.kernel.assign(kernel)
    logits = head(ops.cast(x, "bfloat16"), labels)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    out["heads/bfloat16"] = ops.convert_to_numpy(logits)
    keras.config.set_dtype_policy("float32")


def make_head(name: str) -> Any:
    import spherekeras as sk

    if name == "ASoftmax":
        return sk.layers.ASoftmax(CLASSES, annealing=(100.0, 0.12, 1.0, 5.0))
    return sk.layers.MarginLinear(CLASSES, scale=16.0)


def compiled(model: Any, jit: bool = False) -> Any:
    import keras

    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit,
    )
    return model


def fit(model: Any, x: Any, y: np.ndarray) -> np.ndarray:
    """One epoch in order; the loss after each step."""
    import keras

    losses: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"]))
    )
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[note])
    return np.array(losses)


def fit_scenario(out: Numbers, folder: pathlib.Path) -> None:
    import keras
    from keras import ops

    import spherekeras as sk

    x, y = vectors()

    def backbone() -> Any:
        return keras.Sequential(
            [keras.Input((DIM,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(DIM)]
        )

    for name in ("ASoftmax", "MarginLinear"):
        for form in ("functional", "sequential", "sequential jit"):
            if form == "functional":
                image, label = keras.Input((DIM,)), keras.Input((), dtype="int32")
                model = keras.Model([image, label], make_head(name)(backbone()(image), label))
                given: Any = [x, y]
            else:
                model = sk.Sequential([backbone(), make_head(name)])
                given = x
            compiled(draw(model, 2), jit="jit" in form)
            head, key = model.layers[-1], f"fit/{name}/{form}"
            out[f"{key}/losses"] = fit(model, given, y)
            for i, weight in enumerate(model.trainable_weights):
                out[f"{key}/weight {i}"] = ops.convert_to_numpy(weight)
            for moment in ("fit", "evaluate"):
                if moment == "evaluate":
                    out[f"{key}/evaluate"] = np.array(model.evaluate(given, y, verbose=0))
                out[f"{key}/angle after {moment}"] = ops.convert_to_numpy(head.target_angle)
                if name == "ASoftmax":
                    out[f"{key}/step after {moment}"] = ops.convert_to_numpy(head.step)
            if form != "functional":
                out[f"fit/{name} logits/{form}"] = model.predict(x, verbose=0)
        if name == "ASoftmax":
            model.save(folder / "model.keras")
            out["reload/own logits"] = model.predict(x, verbose=0)


def reload_scenario(out: Numbers, folder: pathlib.Path) -> None:
    """Every backend goes on with the model that TensorFlow saved, optimizer and step too."""
    import keras
    from keras import ops

    x, y = vectors()
    model = keras.models.load_model(folder.parent / "tensorflow" / "model.keras")
    assert type(model).__module__ == "spherekeras.sequential"
    out["reload/logits"] = model.predict(x, verbose=0)
    out["reload/losses"] = fit(model, x, y)
    out["reload/step"] = ops.convert_to_numpy(model.layers[-1].step)
    out["reload/logits after"] = model.predict(x, verbose=0)


def bad_label_scenario(out: Numbers) -> None:
    import keras

    """A model that compiles the head alone: with a loss, that would complain on its own."""
    x, y = vectors()
    bad = np.where(np.arange(len(y)) == 3, CLASSES, y)
    image, label = keras.Input((DIM,)), keras.Input((), dtype="int32")
    head = make_head("ASoftmax")
    model = keras.Model([image, label], head(image, label))
    message = f"expects labels in `[0, {CLASSES})`. Received labels from 0 to {CLASSES}"
    try:
        head(x, bad)
    except ValueError as error:
        out["bad label/eager"] = np.array(message in str(error))
    try:
        logits = model.predict([x, bad], verbose=0)
        out["bad label/compiled"] = np.isnan(logits).all(axis=1) == (bad == CLASSES)
    except ValueError as error:
        out["bad label/compiled"] = np.array(message in str(error))


def backbones_scenario(out: Numbers) -> None:
    from keras import ops

    import spherekeras as sk

    import time

    t = time.time()
    import keras

    JIT = keras.backend.backend() == "jax"
    rng = np.random.default_rng(3)
    crops = rng.normal(size=(2, 112, 96, 3)).astype("float32")
    for model in (sk.backbones.SphereFaceNet(4), sk.backbones.MobileFaceNet()):
        draw(model, 4)
        print("  draw", time.time() - t, file=sys.stderr)
        out[f"forward/{model.name}"] = draw(model, 4).predict(crops, verbose=0)
        print("  bb", time.time() - t, file=sys.stderr)
    small, labels = rng.normal(size=(BATCH, *CROP)).astype("float32"), np.arange(BATCH)
    for backbone in (
        sk.backbones.SphereFaceNet(10, 8, input_shape=CROP),
        sk.backbones.MobileFaceNet(8, input_shape=CROP),
    ):
        model = compiled(sk.Sequential([draw(backbone, 5), make_head("ASoftmax")]), JIT)
        model.build((None, *CROP))
        draw(model, 5)
        out[f"train/{backbone.name}/losses"] = np.array(
            [model.train_on_batch(small, labels)[0] for _ in range(2)]
        )
        print("  tr", time.time() - t, file=sys.stderr)
        moving = [weight for weight in backbone.weights if weight.name.startswith("moving")]
        for place in (0, 1, -2, -1) if moving else ():
            out[f"train/{backbone.name}/moving {place}"] = ops.convert_to_numpy(moving[place])


def preset_scenario(out: Numbers, folder: pathlib.Path) -> None:
    import keras

    import spherekeras as sk
    from spherekeras import presets

    arguments = {"embedding_dim": 8, "input_shape": list(CROP)}
    config = presets.PresetConfig(
        "MobileFaceNet", arguments, "sphereface_112x96", *CROP[:2], 1 / 128, 127.5, "BGR", "sum"
    )
    if keras.backend.backend() == "tensorflow":
        made = sk.FaceEmbedder(draw(presets.build_backbone(config), 6), config, {"name": "tiny"})
        made.save_preset(folder / "tiny", recipe="[data]\n")
    faces = sk.load_preset("tiny")
    assert faces.folder == folder.parent / "tensorflow" / "tiny"
    out["preset/golden difference"] = np.array(faces.check_golden())
    crops = np.random.default_rng(7).integers(0, 256, (3, *CROP), np.uint8)
    out["preset/embeddings"] = faces.embed(crops)
    if keras.backend.backend() != "tensorflow":
        faces.save_preset(folder / "tiny", recipe="[data]\n")
        sk.load_preset(folder / "tiny").check_golden()


def main(folder: pathlib.Path) -> None:
    backend = os.environ["KERAS_BACKEND"]
    others = [name for name in BACKENDS if name != backend]
    for name in others:
        sys.modules[name] = None  # type: ignore[assignment]
    import keras

    assert keras.backend.backend() == backend
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", DeprecationWarning)
    out: Numbers = {}
    shutil.rmtree(folder / backend, ignore_errors=True)
    (folder / backend).mkdir()
    import time

    for name, scenario in (
        ("margins", lambda: margins_scenario(out)),
        ("heads", lambda: heads_scenario(out)),
        ("fit", lambda: fit_scenario(out, folder / backend)),
        ("reload", lambda: reload_scenario(out, folder / backend)),
        ("bad", lambda: bad_label_scenario(out)),
        ("bb", lambda: backbones_scenario(out)),
        ("pre", lambda: preset_scenario(out, folder / backend)),
    ):
        t = time.time()
        try:
            scenario()
        except Exception:
            import traceback

            traceback.print_exc()
        print(name, time.time() - t, file=sys.stderr)
    assert all(sys.modules[name] is None for name in others)
    np.savez(folder / backend / "numbers.npz", **out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
