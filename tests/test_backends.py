"""The core computes the same on the TensorFlow, JAX and torch backends.

A backend is chosen when Keras is imported, so each has a process of its own: this file, run as
a program, computes a fixed scenario and writes its numbers, which the tests compare. NumPy draws
all weights, so no backend's random numbers take part. In each process the two other backends
cannot be imported, as on a machine that has only the one.
"""

import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
CLASSES, DIM, BATCH, STEPS = 5, 6, 4, 10
CROP = (32, 32, 3)
HEADS = ("ASoftmax", "MarginLinear")
Numbers = dict[str, np.ndarray]


def require(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so the backends were not compared")


def run(backend: str, folder: pathlib.Path) -> Numbers:
    """The numbers of one backend, from a process of its own."""
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
    require(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def expected(folder: pathlib.Path) -> Numbers:
    require("tensorflow")
    return run("tensorflow", folder)


@pytest.fixture(scope="module")
def runs(expected: Numbers, folder: pathlib.Path) -> Iterator[dict[str, Future[Numbers]]]:
    """The other backends side by side, once TensorFlow has written what they load."""
    with ThreadPoolExecutor() as pool:
        installed = [name for name in BACKENDS[1:] if importlib.util.find_spec(name)]
        yield {name: pool.submit(run, name, folder) for name in installed}


@pytest.fixture(scope="module")
def numbers(backend: str, runs: dict[str, Future[Numbers]]) -> Numbers:
    return runs[backend].result()


@pytest.mark.parametrize(
    ("part", "tolerance"),
    [
        ("margins", 1e-5),
        ("heads", 1e-5),
        ("fit", 1e-5),
        ("compiled fit", 1e-5),
        ("reload", 1e-5),
        ("backbones", 1e-4),
        ("preset", 1e-5),
    ],
)
def test_numbers_are_those_of_tensorflow(
    backend: str, numbers: Numbers, expected: Numbers, part: str, tolerance: float
) -> None:
    if (backend, part) == ("torch", "compiled fit"):
        pytest.skip("torch.compile takes a minute for each model")
    keys = [key for key in expected if key.startswith(f"{part}/")]
    assert keys == [key for key in numbers if key.startswith(f"{part}/")] != []
    for key in keys:
        assert np.isfinite(expected[key]).all(), key
        atol = tolerance * np.abs(expected[key]).max(initial=1)
        np.testing.assert_allclose(numbers[key], expected[key], rtol=0, atol=atol, err_msg=key)


@pytest.mark.parametrize("head", HEADS)
def test_sequential_functional_and_compiled_fit_agree(numbers: Numbers, head: str) -> None:
    start = f"fit/{head}/functional/"
    keys = [key for key in numbers if key.startswith(start)]
    assert keys
    for key in keys:
        others = [key.replace("functional", "sequential")]
        others += [f"compiled {other}" for other in others if f"compiled {other}" in numbers]
        for other in others:
            np.testing.assert_allclose(numbers[other], numbers[key], atol=1e-5, err_msg=other)


def test_annealing_and_target_angle_move_in_training_alone(numbers: Numbers) -> None:
    starts = [key.removesuffix("step after fit") for key in numbers if "step after fit" in key]
    assert len(starts) >= 2
    for start in starts:
        assert numbers[f"{start}step after fit"] == STEPS
        assert numbers[f"{start}step after evaluate"] == STEPS
        assert numbers[f"{start}angle after fit"] != np.float32(np.pi / 2)
        assert numbers[f"{start}angle after evaluate"] == numbers[f"{start}angle after fit"]


def test_a_model_saved_on_another_backend_loads_here(
    backend: str, numbers: Numbers, folder: pathlib.Path
) -> None:
    import keras

    import spherekeras as sk

    x, _ = vectors()
    kind = sk.Sequential  # named before loading: importing spherekeras alone registers no class
    # Keras stores torch's optimizer as a class that only a machine with torch can read.
    model = keras.models.load_model(folder / backend / "model.keras", compile=False)
    assert type(model) is kind and int(model.layers[-1].step) == STEPS
    keras.models.load_model(folder / backend / "normed.keras")
    logits = model.predict(x, verbose=0)
    np.testing.assert_allclose(logits, numbers["fit/ASoftmax/logits"], atol=1e-5)


def test_the_same_weights_are_the_same_preset_bytes(
    backend: str, numbers: Numbers, folder: pathlib.Path
) -> None:
    for file in ("model.weights.h5", "config.json", "metadata.json", "README.md"):
        ours = (folder / backend / "tiny" / file).read_bytes()
        assert ours == (folder / "tensorflow" / "tiny" / file).read_bytes(), file


def test_a_label_out_of_range_is_never_silently_wrong(numbers: Numbers) -> None:
    assert numbers["bad label/eager"].all() and numbers["bad label/compiled"].all()


# What follows runs in a backend's own process.


def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size = BATCH * STEPS
    return rng.normal(size=(size, DIM)).astype("float32"), rng.integers(0, CLASSES, size)


def draw(model: Any, seed: int) -> Any:
    """Gives a model's weights values that depend on their names, shapes and order alone."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in ("gamma", "moving_variance", "alpha"):
            weight.assign(rng.uniform(0.1, 1.0, shape).astype("float32"))
        elif weight.name in ("kernel", "bias", "beta", "moving_mean"):
            fan_in = max(np.prod(shape[:-1]), 9)
            weight.assign((rng.normal(size=shape) / np.sqrt(fan_in)).astype("float32"))
    return model


def gradients(function: Callable[..., Any], *values: np.ndarray) -> list[np.ndarray]:
    """The gradients of a scalar function by each of its arguments."""
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
        value = formula(ops.convert_to_tensor(cosine))
        out[f"margins/{name}/value"] = ops.convert_to_numpy(value)
        slope = gradients(lambda c, formula=formula: ops.sum(formula(c)), cosine)[0]
        out[f"margins/{name}/slope"] = slope
    for step in (0, 1, 1658, 10**6):
        weight = margins.annealing_lambda(step, 1000.0, 0.12, 1.0, 5.0)
        out[f"margins/lambda/{step}"] = ops.convert_to_numpy(weight)


def heads_scenario(out: Numbers) -> None:
    import keras
    from keras import ops

    import spherekeras as sk

    rng = np.random.default_rng(1)
    x = rng.normal(size=(BATCH, DIM)).astype("float32")
    weights = rng.normal(size=(BATCH, CLASSES)).astype("float32")
    labels = np.array([0, 4, 2, 2])
    heads: dict[str, tuple[Any, dict[str, Any]]] = {
        "m=1.5": (sk.layers.ASoftmax, {"margin": 1.5, "annealing": None}),
        "combined": (sk.layers.MarginLinear, {"m1": 1.2, "m2": 0.3, "m3": 0.2}),
    }
    for name in sk.layers.__all__:
        kind = getattr(sk.layers, name)
        if issubclass(kind, sk.layers.MarginHead) and kind is not sk.layers.MarginHead:
            # Each backend draws its own random margins.
            heads[name] = (kind, {"sigma": 0.0} if name == "ElasticFace" else {})
    for name, (kind, arguments) in heads.items():
        for gradient in kind.gradients:
            if gradient == "caffe" and name == "m=1.5":  # whole margins alone have that one
                continue
            head, key = kind(CLASSES, gradient=gradient, **arguments), f"heads/{name}/{gradient}"
            head.build(x.shape)
            kernel = rng.normal(size=head.kernel.shape).astype("float32")
            head.kernel.assign(kernel)

            def total(x: Any, kernel: Any, head: Any = head) -> Any:
                with keras.StatelessScope([(head.kernel, kernel)], collect_losses=True) as scope:
                    logits = head(x, labels, training=True)
                return sum(scope.losses, ops.sum(ops.multiply(logits, weights)))

            out[f"{key}/by x"], out[f"{key}/by kernel"] = gradients(total, x, kernel)
            out[f"{key}/margin-free"] = ops.convert_to_numpy(head(x))
            out[f"{key}/angles"] = ops.convert_to_numpy(head.angles(x))
            for dtype, shape in (("int64", (-1,)), ("uint8", (-1, 1))):
                given = ops.convert_to_tensor(labels.astype(dtype).reshape(shape))
                out[f"{key}/{dtype}"] = ops.convert_to_numpy(head(x, given))
            out[f"{key}/in training"] = ops.convert_to_numpy(head(x, labels, training=True))
            out[f"{key}/target angle"] = ops.convert_to_numpy(head.target_angle)
            losses = [ops.convert_to_numpy(loss) for loss in head.losses]
            out[f"{key}/losses"] = np.array(losses)
            if name == "ASoftmax":
                out[f"{key}/lambda"] = np.array(head.annealing_lambda())
    for name in ("ASoftmax", "CosFace", "SphereFaceR", "SubCenterArcFace"):
        head = getattr(sk.layers, name)(CLASSES, sampling=1.0)  # whatever is drawn, it is all
        head.build(x.shape)
        head.kernel.assign(rng.normal(size=head.kernel.shape).astype("float32"))
        loss = head.loss()(labels, head(x, labels, training=True))
        out[f"heads/{name}/loss of a sample of all"] = ops.convert_to_numpy(loss)
    kernel = rng.normal(size=(DIM, CLASSES)).astype("float32")
    for name in ("SoftmaxLinear", "CenterLoss", "ContrastiveSoftmax"):
        head, key = getattr(sk.layers, name)(CLASSES), f"heads/{name}"
        head.build(x.shape)
        head.kernel.assign(kernel)
        logits = head(x, labels, training=True)
        out[f"{key}/losses"] = np.array([ops.convert_to_numpy(loss) for loss in head.losses])
        out[f"{key}/in training"] = ops.convert_to_numpy(logits)
    one_vs_all, triplet = sk.losses.OneVsAll(), sk.losses.TripletLoss()
    out["heads/one vs all"] = ops.convert_to_numpy(one_vs_all(labels, weights))
    out["heads/triplet"] = ops.convert_to_numpy(triplet(labels, x))
    keras.config.set_dtype_policy("mixed_bfloat16")
    head = sk.layers.ASoftmax(CLASSES)
    head.build(x.shape)
    head.kernel.assign(kernel)
    logits = head(ops.cast(x, "bfloat16"), labels)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    out["heads/of bfloat16 embeddings"] = ops.convert_to_numpy(logits)
    keras.config.set_dtype_policy("float32")


def make_head(name: str) -> Any:
    import spherekeras as sk

    if name == "ASoftmax":
        return sk.layers.ASoftmax(CLASSES, annealing=(100.0, 0.12, 1.0, 5.0))
    return sk.layers.MarginLinear(CLASSES, scale=4.0)


def fit(model: Any, x: Any, y: np.ndarray) -> np.ndarray:
    """One epoch in order; the running loss after each step."""
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
    forms = [("ASoftmax", "functional", False), ("ASoftmax", "sequential", False)]
    forms += [("MarginLinear", "functional", False), ("MarginLinear", "sequential", False)]
    if keras.backend.backend() != "torch":
        forms += [("ASoftmax", "sequential", True)]
    normed = sk.backbones.MobileFaceNet(embedding_dim=8, input_shape=CROP)
    draw(normed, 5).save(folder / "normed.keras")
    for name, form, jit in forms:
        hidden = [keras.layers.Dense(8), keras.layers.PReLU(), keras.layers.Dense(DIM)]
        backbone = keras.Sequential([keras.Input((DIM,)), *hidden])
        if form == "functional":
            image, label = keras.Input((DIM,)), keras.Input((), dtype="int32")
            model = keras.Model([image, label], make_head(name)(backbone(image), label))
            given: Any = [x, y]
        else:
            model = sk.Sequential([backbone, make_head(name)])
            given = x
        draw(model, 2).compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=jit,
        )
        head, key = model.layers[-1], f"{'compiled ' if jit else ''}fit/{name}/{form}"
        out[f"{key}/losses"] = fit(model, given, y)
        for i, weight in enumerate(model.trainable_weights):
            out[f"{key}/weight {i}"] = ops.convert_to_numpy(weight)
        for moment in ("fit", "evaluate"):
            if moment == "evaluate":
                out[f"{key}/evaluate"] = np.array(model.evaluate(given, y, verbose=0))
            out[f"{key}/angle after {moment}"] = ops.convert_to_numpy(head.target_angle)
            if name == "ASoftmax":
                out[f"{key}/step after {moment}"] = ops.convert_to_numpy(head.step)
        if (name, form, jit) == ("ASoftmax", "sequential", False):
            out["fit/ASoftmax/logits"] = model.predict(x, verbose=0)
            model.save(folder / "model.keras")


def reload_scenario(out: Numbers, folder: pathlib.Path) -> None:
    """Goes on with the model that TensorFlow saved, optimizer and annealing step too."""
    import keras
    from keras import ops

    x, y = vectors()
    model = keras.models.load_model(folder.parent / "tensorflow" / "model.keras")
    out["reload/logits"] = model.predict(x, verbose=0)
    out["reload/losses"] = fit(model, x, y)
    normed = keras.models.load_model(folder.parent / "tensorflow" / "normed.keras")
    crops = np.random.default_rng(3).normal(size=(2, *CROP)).astype("float32")
    out["reload/batch norm"] = normed.predict(crops, verbose=0)
    out["reload/step"] = ops.convert_to_numpy(model.layers[-1].step)
    for i, weight in enumerate(model.trainable_weights):
        out[f"reload/weight {i}"] = ops.convert_to_numpy(weight)


def bad_label_scenario(out: Numbers) -> None:
    """Compiles the head without a loss, which might complain on its own."""
    import keras

    x, y = vectors()
    bad = np.where(np.arange(len(y)) == 3, CLASSES, y)
    image, label = keras.Input((DIM,)), keras.Input((), dtype="int32")
    head = make_head("ASoftmax")
    model = keras.Model([image, label], head(image, label))
    message = f"expects labels in `[0, {CLASSES})`. Received labels from 0 to {CLASSES}"
    out["bad label/eager"] = out["bad label/compiled"] = np.array(False)
    try:
        head(x, bad)
    except ValueError as error:
        out["bad label/eager"] = np.array(message in str(error))
    try:
        logits = model.predict([x, bad], verbose=0)
        out["bad label/compiled"] = np.isnan(logits).all(axis=1) == (bad == CLASSES)
    except ValueError as error:  # torch shows the values in every step
        out["bad label/compiled"] = np.array(message in str(error))


def backbones_scenario(out: Numbers) -> None:
    import spherekeras as sk

    crops = np.random.default_rng(3).normal(size=(2, 112, 96, 3)).astype("float32")
    for model in (sk.backbones.SphereFaceNet(4), sk.backbones.MobileFaceNet()):
        out[f"backbones/{model.name}"] = draw(model, 4).predict(crops, verbose=0)


def preset_scenario(out: Numbers, folder: pathlib.Path) -> None:
    """Loads by name the preset that TensorFlow saved, and saves it again."""
    import keras

    import spherekeras as sk
    from spherekeras import presets

    config = presets.PresetConfig(
        backbone="SphereFaceNet",
        arguments={"depth": 4, "embedding_dim": 8, "input_shape": list(CROP)},
        template="sphereface_112x96",
        height=CROP[0],
        width=CROP[1],
        scale=1 / 128,
        offset=127.5,
        channel_order="BGR",
        mirror="sum",
    )
    if keras.backend.backend() == "tensorflow":
        made = sk.FaceEmbedder(draw(presets.build_backbone(config), 6), config)
        made.save_preset(folder / "tiny", {"name": "tiny"})
    faces = sk.load_preset("tiny")
    assert faces.folder == folder.parent / "tensorflow" / "tiny" and faces.config == config
    faces.check_golden()
    crops = np.random.default_rng(7).integers(0, 256, (3, *CROP), np.uint8)
    out["preset/embeddings"] = faces.embed(crops)
    if keras.backend.backend() != "tensorflow":
        faces.save_preset(folder / "tiny")
        sk.load_preset(folder / "tiny").check_golden()


def forget(names: list[str]) -> None:
    """Makes packages that are there look as if they were not."""

    class Without(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname.partition(".")[0] in names:
                return None
            return super().find_spec(fullname, path, target)

    place = sys.meta_path.index(importlib.machinery.PathFinder)
    sys.meta_path[place] = Without


def main(folder: pathlib.Path) -> None:
    own = os.environ["KERAS_BACKEND"]
    others = [name for name in BACKENDS if name != own]
    forget(others)
    import keras

    assert keras.backend.backend() == own
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", DeprecationWarning)
    (folder / own).mkdir()
    out: Numbers = {}
    margins_scenario(out)
    heads_scenario(out)
    fit_scenario(out, folder / own)
    reload_scenario(out, folder / own)
    bad_label_scenario(out)
    backbones_scenario(out)
    preset_scenario(out, folder / own)
    assert not any(name in sys.modules for name in others)
    np.savez(folder / own / "numbers.npz", allow_pickle=False, **out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
