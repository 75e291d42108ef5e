"""A recipe, a folder of crops, one call: a trained preset.

The data's way: crops → records → batches → `Sequential([backbone, head])` → stock `fit` →
preset. Everything that decides a step follows from (recipe, records, step), so a run that is
killed and started again goes on from its last checkpoint to the same weights, on one processor,
all GPUs of a machine or several machines.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import os
import pathlib
from typing import Any

import keras
import numpy as np
from absl import logging

from spherekeras import backbones, distribution, evaluation, layers, presets, sharding
from spherekeras.checkpoints import Checkpoints
from spherekeras.common_part import keep_length, start_around, start_centred
from spherekeras.compiling import averaged, compile_model
from spherekeras.data import pipeline
from spherekeras.data.records import Records, fingerprint, open_records, pack
from spherekeras.embedder import FaceEmbedder, load_preset
from spherekeras.errors import DataError, RecipeError, TrainingError
from spherekeras.evaluation import metrics
from spherekeras.files import atomic_path
from spherekeras.multi_worker_fit import mend_fit
from spherekeras.presets import PresetConfig
from spherekeras.profiling import Profile
from spherekeras.recipe import Backbone, Head, Recipe, load_recipe
from spherekeras.sequential import Sequential
from spherekeras.teacher import centred, embeddings_of, onlooker
from spherekeras.watch import Watch

_SCALE, _OFFSET = 1 / 128, 127.5
_SOME = 1024  # crops that tell what all have in common
_PATIENCE = 1000  # steps at chance after the warm-up; two passes over the crops where that is more
_TEMPLATES = {96: "sphereface_112x96", 112: "arcface_112x112"}


def train(
    recipe: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    strategy: Any = None,
    verbose: int = 2,
    profile: bool = False,
) -> pathlib.Path:
    """Trains a network by a recipe and saves it as a preset; goes on where it was stopped.

    Writes into `out`: `records/` (unless `source` is a records folder), `recipe.toml` and
    checksums of the data and of a teacher, a teacher's embeddings in `teacher/`, `checkpoint.npz`
    and the one before it (network, head, optimiser, annealing), `log.csv`, on TensorFlow
    `tensorboard/` where TensorBoard is installed, and at the end `preset/`. Of several workers the
    first writes.

    Args:
        recipe: a .toml file, see `spherekeras.recipe`.
        source: a folder or zip of crops (a folder a person), or a records folder.
        out: folder of the run.
        strategy: on the TensorFlow backend, a `tf.distribute.Strategy`; by default what
            `spherekeras.distribution.strategy` finds: the workers of TF_CONFIG, else all GPUs,
            else the processor. On the JAX backend all devices train, see `spherekeras.sharding`.
        verbose: 0 silent, 1 progress bar, 2 one line a checkpoint.
        profile: whether `out` gets a page of where the time of a step goes, see
            `spherekeras.profiling`.

    Returns:
        The preset's folder.

    Raises:
        RecipeError, DataError: what was given cannot be used.
        TrainingError: the loss is no longer finite or stays at chance, `out` holds another run
            or is on a full disk, or the workers do not meet.
        WorkerError: another worker is gone.
    """
    out = pathlib.Path(out)
    plan = load_recipe(recipe)
    if keras.backend.backend() == "tensorflow" and strategy is None:
        strategy = distribution.strategy()  # before anything else runs in TensorFlow
    elif strategy is None and len(distribution.cluster()[0]) > 1:
        raise TrainingError(
            "Several workers train on the TensorFlow backend. Received: TF_CONFIG and the "
            f"{keras.backend.backend()} backend. Set KERAS_BACKEND=tensorflow, or unset TF_CONFIG."
        )
    check_model(plan)
    if plan.backbone.start:
        check_source(plan, plan.backbone.start, "backbone.start")
        check_start(plan.backbone)
    if plan.teacher.preset:
        check_source(plan, plan.teacher.preset, "teacher.preset")
    teacher = load_teacher(plan) if plan.teacher.preset else None
    text = pathlib.Path(recipe).read_text(encoding="utf-8")
    replicas = strategy.num_replicas_in_sync if strategy else sharding.devices()
    parts = plan.training.accumulation
    if strategy and replicas > 1 and parts > 1:
        raise RecipeError(
            "Keras' optimizers add gradients up on one TensorFlow replica or on JAX. Received: "
            f"training.accumulation = {parts} and {replicas} replicas. Leave it out, or set "
            "KERAS_BACKEND=jax."
        )
    if plan.training.batch_size % (replicas * parts):
        raise RecipeError(
            f"`training.batch_size` is the global batch and divides by the {replicas} replicas. "
            f"Received: {plan.training.batch_size}. Set it to a multiple of {replicas}."
            if parts == 1
            else "`training.batch_size` divides by `training.accumulation` times the number of "
            f"devices ({parts} x {replicas}). Received: {plan.training.batch_size}. Set it to a "
            f"multiple of {parts * replicas}."
        )
    checkpoints = Checkpoints(out)
    with distribution.in_company(strategy, str(checkpoints.path)):
        return _run(plan, text, source, out, strategy, teacher, checkpoints, verbose, profile)


def _run(
    plan: Recipe,
    text: str,
    source: str | os.PathLike[str],
    out: pathlib.Path,
    strategy: Any,
    teacher: FaceEmbedder | None,
    checkpoints: Checkpoints,
    verbose: int,
    profile: bool,
) -> pathlib.Path:
    first = distribution.is_first(strategy)
    if first:  # of several workers one packs, and one asks the teacher
        records = _records(source, out)
        check_crops(plan.backbone, records)
        _claim(out, text, records, teacher, checkpoints)
        checkpoints.clear()
    distribution.agree(strategy, 0)
    if not first:
        records = _records(source, out)
    plans = hashlib.sha256((text + records.checksum).encode()).digest()
    distribution.agree(
        strategy,
        int.from_bytes(plans[:6]),
        "Give all of them the same recipe and the same crops.",
    )
    train_positions, validation_positions = pipeline.split(
        records, plan.data.min_images, plan.data.max_images, plan.data.validation, plan.seed
    )
    classes = len(np.unique(records.labels[train_positions]))
    logging.info("%d crops of %d identities", len(train_positions), classes)
    keras.utils.set_random_seed(plan.seed)
    shared = None if plan.teacher.preset else classes  # an imitator has no class weights
    with strategy.scope() if strategy else sharding.over_devices(shared):
        model = build_model(plan, classes)
        if plan.backbone.start:
            start_from(model.layers[1], plan.backbone.start)
        compile_model(model, plan)
        model.optimizer.build(model.trainable_variables)
    done = checkpoints.restore(model)
    distribution.agree(
        strategy,
        done,
        f"This one stands at step {done}: `--out` must be a folder that all of them see.",
    )
    # Over several processors `predict` is the work of all; validation takes a model of its own.
    alone = distribution.workers_of(strategy) == sharding.devices() == 1
    predictor = model.layers[1] if alone else build_model(plan, 2).layers[1]
    faces = FaceEmbedder(predictor, preset_config(plan))
    head = model.layers[-1]
    a_column_a_class = isinstance(head, layers.MarginHead) and head.columns == classes
    if plan.backbone.start and not done and a_column_a_class:
        if first:
            predictor.set_weights(model.layers[1].get_weights())
            start_centred(faces, _some_crops(plan, records, train_positions))
            imprint(head, faces, records, train_positions)
        _take_from_first(strategy, model.layers[1], predictor)
        kernel = keras.ops.convert_to_numpy(head.kernel)
        head.kernel.assign(distribution.from_first(strategy, kernel))
    validation = _Validation(records, validation_positions[: None if first else 0], faces)
    if first and not validation.usable:
        logging.warning(
            "No pair of crops can be verified: %d crops of %d people are held out, and it takes "
            "two people, one of them with two crops. No val_auc, and a preset without thresholds. "
            "Raise `data.validation`, or give more people, with two pictures or more.",
            len(validation.identities),
            len(set(validation.identities)),
        )
    if done:
        logging.info("going on from step %d of %d", done, plan.training.steps)
    if done < plan.training.steps:
        targets = sees = None
        if teacher:
            if first:
                embeddings_of(teacher, records, train_positions, out / "teacher")
            distribution.agree(strategy, done)
            told = embeddings_of(teacher, records, train_positions, out / "teacher")
            mean = (1 - plan.teacher.common) * told.mean(axis=0, dtype=np.float64)
            targets = centred(told, mean)
            if plan.backbone.start and plan.teacher.common and not done:
                if first:
                    predictor.set_weights(model.layers[1].get_weights())
                    around = targets[_some(train_positions)]
                    start_around(faces, _some_crops(plan, records, train_positions), around)
                _take_from_first(strategy, model.layers[1], predictor)
            if plan.teacher.varied:
                sees = onlooker(teacher, records, mean, out / "teacher")
        batches = pipeline.Batches(
            records,
            train_positions,
            batch_size=plan.training.batch_size,
            seed=plan.seed,
            size=(plan.backbone.height, plan.backbone.width),
            augmentation=plan.augmentation,
            targets=targets,
            onlooker=sees,
        )
        passes = 2 * len(train_positions) // plan.training.batch_size
        watch = Watch(checkpoints, plan.optimizer.warmup + max(_PATIENCE, passes))
        watch.go_on(out / "log.csv", done, plan.training.checkpoint_steps)
        callbacks = [watch]
        if first:
            callbacks += [validation, _Keep(checkpoints, watch)]
            callbacks += _logs(out, done // plan.training.checkpoint_steps)
            if profile:
                crops = plan.training.batch_size // plan.training.accumulation
                callbacks.append(Profile(out, crops))
        try:
            with sharding.over_devices(shared):
                _fit(model, plan, batches, done, strategy, callbacks, verbose)
        finally:
            checkpoints.wait()
        if watch.failure:
            raise TrainingError(watch.failure)
    if first:
        _publish(model, plan, text, records, train_positions, validation, out / "preset")
    distribution.agree(strategy, plan.training.steps)
    return out / "preset"


def _fit(
    model: keras.Model,
    plan: Recipe,
    batches: pipeline.Batches,
    done: int,
    strategy: Any,
    callbacks: list[keras.callbacks.Callback],
    verbose: int,
) -> None:
    """Keras' `fit`, from a step to the last."""
    steps, every = plan.training.steps, plan.training.checkpoint_steps
    parts = plan.training.accumulation
    if keras.backend.backend() == "tensorflow":
        data = pipeline.dataset(batches, done, steps, parts, strategy)
    else:
        data = pipeline.py_dataset(batches, done, parts)
        # `fit` builds a loss that is not built by a batch of the data, which is then missing.
        told = np.zeros((1, *batches.wanted.shape[1:]), batches.wanted.dtype)
        model.compute_loss(y=told, y_pred=keras.ops.zeros((1, *model.output_shape[1:])))
    if distribution.workers_of(strategy) > 1:
        mend_fit(model, batches.batch(0, 0, strategy.num_replicas_in_sync))
    model.fit(
        data,
        shuffle=False,
        initial_epoch=done // every,
        epochs=steps // every,
        steps_per_epoch=every * parts,
        verbose=verbose,
        callbacks=callbacks,
    )


def _logs(out: pathlib.Path, epochs: int) -> list[keras.callbacks.Callback]:
    """The logs, which go on after so many epochs; a run that was killed may have told of more."""
    path = out / "log.csv"
    if epochs and path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines[: epochs + 1]), encoding="utf-8")
    log = keras.callbacks.CSVLogger(str(path), append=epochs > 0)
    if keras.backend.backend() != "tensorflow" or not importlib.util.find_spec("tensorboard"):
        return [log]
    board = keras.callbacks.TensorBoard(str(out / "tensorboard"), write_graph=False)
    return [log, board]


def build_model(recipe: Recipe, classes: int) -> Sequential:
    """Returns `Sequential([pixels, backbone, head])` in the recipe's number format."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.training.precision)
    try:
        backbone = build_backbone(recipe.backbone)
        head = last_layer(recipe, classes)
        kind = keras.Sequential if recipe.teacher.preset else Sequential
        model = kind([_Pixels(name="pixels"), backbone, head], name=recipe.name)
        model.build(backbone.input_shape)
        return model
    finally:
        keras.config.set_dtype_policy(policy)


class _Pixels(keras.layers.Layer):
    """uint8 to what the backbone takes. (Keras' own Rescaling needs TensorFlow installed.)"""

    def call(self, inputs: Any) -> Any:
        return (keras.ops.cast(inputs, self.compute_dtype) - _OFFSET) * _SCALE


def check_source(plan: Recipe, preset: str, key: str) -> None:
    """Refuses to hold out people whom another preset was trained on.

    Who is held out follows from the names, a larger part holding all of a smaller one; so it is
    enough to compare the fractions.

    Args:
        plan: the recipe.
        preset: the one to start from, or the teacher.
        key: of the recipe, that names it.

    Raises:
        RecipeError: it was trained by this project and held out fewer people.
    """
    trained = presets.trained_on(presets.read_metadata(presets.find_preset(preset)))
    before = (trained or {"validation": 1.0}).get("validation", 0.0)
    if before < plan.data.validation:
        raise RecipeError(
            f"`data.validation` = {plan.data.validation:g} holds out people whom `{key}` = "
            f"{preset!r} was trained on: it held out {before:g}. Set it to at most {before:g}."
        )


def check_start(plan: Backbone) -> None:
    """Refuses to start from a network of the same function that computes something else.

    Raises:
        RecipeError: an argument other than depth and sizes differs, and the recipe does not say so
            itself.
    """
    config = presets.read_config(presets.find_preset(plan.start))
    if config.backbone != plan.name:
        return
    known = inspect.signature(getattr(backbones, plan.name)).parameters
    for key in sorted(known.keys() - {"depth", "embedding_dim", "input_shape", "name"}):
        theirs, ours = (
            arguments.get(key, known[key].default)
            for arguments in (config.arguments, plan.arguments)
        )
        if theirs != ours and key not in plan.arguments:
            raise RecipeError(
                f"`backbone.start` = {plan.start!r} was built with {key} = {theirs!r}, this recipe "
                f"with {ours!r}. Set backbone.arguments = {{ {key} = {json.dumps(theirs)} }}, or "
                f"state there that it is to be {json.dumps(ours)}."
            )


def check_crops(plan: Backbone, records: Records) -> None:
    """Refuses crops that are not, to the pixel, what the network's template shows or shows more of.

    Raises:
        DataError: they have another size.
    """
    template = _TEMPLATES[plan.width]
    wanted = [(112, width) for width in _TEMPLATES if width >= plan.width]
    if (records.height, records.width) not in wanted:
        raise DataError(
            f"The crops of {records.folder} are {records.height}x{records.width}; this network "
            f"takes crops of {' or '.join(f'{h}x{w}' for h, w in wanted)} (height x width), "
            f"aligned to {template}. Align the photographs with `spherekeras align PHOTOS --out "
            f"CROPS --template {template}`."
        )


def start_from(backbone: keras.Model, preset: str) -> None:
    """Takes over a preset's weights, layer by layer, where name and shapes agree.

    A network that was taught another order of channels or scale of pixels has its first kernel
    changed, so that it computes from a recipe's pixels what it computed from its own.

    Raises:
        RecipeError: no layer agrees, or the preset's pixels have another offset.
    """
    faces = load_preset(preset)
    source, config = faces.backbone, faces.config
    if config.offset != _OFFSET:
        raise RecipeError(
            f"`backbone.start`: {preset!r} was taught pixels less {config.offset:g}; a recipe's "
            f"have {_OFFSET:g} subtracted. Start from another preset."
        )
    weights = {layer.name: layer.get_weights() for layer in source.layers}
    first = next(given for given in weights.values() if given)
    kernel = first[0] * (config.scale / _SCALE)  # (height, width, channels, filters)
    first[0] = kernel[:, :, ::-1] if config.channel_order == "BGR" else kernel
    taken, anew = 0, []
    for layer in backbone.layers:
        given = weights.get(layer.name, [])
        if given and [w.shape for w in given] == [tuple(w.shape) for w in layer.weights]:
            layer.set_weights(given)
            taken += 1
        elif given and layer.weights:
            anew.append(layer.name)
    if not taken:
        raise RecipeError(
            f"`backbone.start`: no layer of {preset!r} ({source.name}) has the name and shapes of "
            f"one of {backbone.name}. Start from a preset of the same family."
        )
    logging.info("%d layers start from %s", taken, preset)
    if anew:
        logging.warning(
            "%d layers begin anew, for the weights of %s have other shapes there: %s",
            len(anew),
            preset,
            ", ".join(anew),
        )


def _some(positions: np.ndarray) -> np.ndarray:
    """Which of the positions tell what all crops have in common."""
    return np.linspace(0, len(positions) - 1, _SOME).astype(int)


def _some_crops(plan: Recipe, records: Records, positions: np.ndarray) -> np.ndarray:
    size = (plan.backbone.height, plan.backbone.width)
    return pipeline.centre(records.crops(positions[_some(positions)]), size)


def _take_from_first(strategy: Any, trained: keras.Model, predictor: keras.Model) -> None:
    """Gives the trained network, on every worker, the weights of the first one's predictor."""
    found = [distribution.from_first(strategy, weight) for weight in predictor.get_weights()]
    trained.set_weights(found)


def imprint(
    head: layers.MarginHead, faces: FaceEmbedder, records: Records, positions: np.ndarray
) -> None:
    """Turns the class weights of a new head to their classes' mean embeddings.

    A backbone that starts from a preset knows more than a head that starts at random; trained
    together, the head's first gradients would undo it. The weights keep their lengths.

    Args:
        head: with a column a class.
        faces: with the backbone that it follows.
        records: the crops.
        positions: which of them; their people are the classes, in order.

    Source: weight imprinting, arXiv 1712.07136, section 3.2.
    """
    size = (faces.config.height, faces.config.width)
    labels = np.unique(records.labels[positions], return_inverse=True)[1]
    means = np.zeros(tuple(head.kernel.shape), np.float32)
    for start in range(0, len(positions), 1024):
        part = slice(start, start + 1024)
        crops = pipeline.centre(records.crops(positions[part]), size)
        np.add.at(means.T, labels[part], faces.embed_crops(crops))
    lengths = np.linalg.norm(keras.ops.convert_to_numpy(head.kernel), axis=0)
    head.kernel.assign(means * (lengths / np.maximum(np.linalg.norm(means, axis=0), 1e-12)))


def check_model(recipe: Recipe) -> None:
    """Builds head and backbone once, so that their slips are told before any work is done."""
    try:
        build_head(recipe.head, 2)
        build_backbone(recipe.backbone)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The recipe's head or backbone cannot be built: {error}") from None


def load_teacher(plan: Recipe) -> FaceEmbedder:
    """Returns the network that a recipe imitates, if the backbone can."""
    teacher = load_preset(plan.teacher.preset)
    width = teacher.backbone.output_shape[-1]
    if width != plan.backbone.embedding_dim:
        raise RecipeError(
            f"The teacher's embeddings have {width} dimensions, the backbone's "
            f"{plan.backbone.embedding_dim}. Set backbone.embedding_dim = {width}."
        )
    return teacher


def build_backbone(plan: Backbone) -> keras.Model:
    """Returns the backbone that a recipe names."""
    return getattr(backbones, plan.name)(**backbone_arguments(plan))


def backbone_arguments(plan: Backbone) -> dict[str, Any]:
    """The arguments of the backbone's function, as the preset stores them."""
    arguments: dict[str, Any] = {
        "embedding_dim": plan.embedding_dim,
        "input_shape": [plan.height, plan.width, 3],
    }
    if plan.depth is not None:
        arguments["depth"] = plan.depth
    return {**arguments, **plan.arguments}


def last_layer(recipe: Recipe, classes: int) -> keras.layers.Layer:
    """What follows the backbone: the head, or unit length where a teacher is imitated."""
    if recipe.teacher.preset:
        return keras.layers.UnitNormalization(dtype="float32", name="head")
    return build_head(recipe.head, classes)


def build_head(plan: Head, classes: int) -> layers.Head:
    """Returns the head that a recipe names; keys left out keep the layer's defaults."""
    return getattr(layers, plan.name)(classes, name="head", **plan.arguments)


def _records(source: str | os.PathLike[str], out: pathlib.Path) -> Records:
    """The records to train on: the source itself, or what it was packed into."""
    if (pathlib.Path(source) / "records.json").is_file():
        return open_records(source)
    packed = out / "records"
    if (packed / "records.json").is_file():
        records = open_records(packed)
        if records.source != fingerprint(source):
            raise TrainingError(
                f"{packed} was packed from other pictures than {source} now holds. Give a new "
                f"folder with `--out`, or delete {packed}."
            )
        return records
    logging.info("packing %s into %s", source, packed)
    records = pack(source, packed)
    for skipped in records.skipped:
        logging.warning("left out: %s", skipped["reason"])
    return records


def _claim(
    out: pathlib.Path,
    text: str,
    records: Records,
    teacher: FaceEmbedder | None,
    checkpoints: Checkpoints,
) -> None:
    """Makes `out` the folder of this run, or refuses where it is another's."""
    stamp = {"recipe.toml": text, "records.sha256": records.checksum + "\n"}
    if teacher and teacher.folder:
        files = presets.stamp(teacher.folder)
        stamp["teacher.sha256"] = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    for name, content in stamp.items():
        path = out / name
        another = path.exists() and path.read_text(encoding="utf-8") != content
        if another and (checkpoints.kept or (out / "preset").exists()):
            raise TrainingError(
                f"{out} holds a run with another {name}. Give a new folder with `--out`, or delete "
                "this one to train anew."
            )
    for name, content in stamp.items():
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


class _Keep(keras.callbacks.Callback):
    """Keeps a checkpoint after every epoch whose numbers are finite."""

    def __init__(self, checkpoints: Checkpoints, watch: Watch) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.watch = watch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self.watch.finite:
            self.checkpoints.keep(self.model)


class _Validation(keras.callbacks.Callback):
    """Verification on the identities held out: AUC and TAR at FAR 1e-2 after every epoch."""

    def __init__(self, records: Records, positions: np.ndarray, faces: FaceEmbedder) -> None:
        super().__init__()
        positions = whole_people(records.labels, positions, evaluation.MOST_CROPS)
        self.identities = [records.identities[label] for label in records.labels[positions]]
        self.faces = faces
        size = (faces.config.height, faces.config.width)
        self.crops = (
            pipeline.centre(records.crops(positions), size)
            if self.usable
            else np.zeros(0, np.uint8)
        )

    @property
    def usable(self) -> bool:
        """Whether the held-out identities give pairs of both kinds."""
        return 1 < len(set(self.identities)) < len(self.identities)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is None or not self.usable or self.model.stop_training:
            return
        with averaged(self.model):
            trained = self.model.layers[1]
            if self.faces.backbone is not trained:
                self.faces.backbone.set_weights(trained.get_weights())
            with sharding.apart():
                embeddings = self.faces.embed_crops(self.crops)
        if not np.isfinite(embeddings).all():
            return
        similarities, same = evaluation.all_pairs(embeddings, self.identities)
        logs["val_auc"] = metrics.auc(similarities, same)
        logs["val_tar_at_far_1e-2"] = metrics.tar_at_far(similarities, same, 1e-2)


def whole_people(labels: np.ndarray, positions: np.ndarray, most: int) -> np.ndarray:
    """Returns those positions whose people, drawn at random and whole, have at most `most` crops.

    Args:
        labels: of all crops.
        positions: which of them to choose from.
        most: crops.
    """
    people, member, counts = np.unique(labels[positions], return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(people))
    order = order[counts[order] <= most]  # who alone is too many does not keep others out
    taken = np.zeros(len(people), bool)
    taken[order[np.cumsum(counts[order]) <= most]] = True
    return positions[taken[member]]


def preset_config(plan: Recipe) -> PresetConfig:
    """What a trained network needs to be used: its crop and its preprocessing."""
    return PresetConfig(
        backbone=plan.backbone.name,
        arguments=backbone_arguments(plan.backbone),
        template=_TEMPLATES[plan.backbone.width],
        height=plan.backbone.height,
        width=plan.backbone.width,
        scale=_SCALE,
        offset=_OFFSET,
        channel_order="RGB",
    )


def _begun_from(preset: str) -> dict[str, Any]:
    """Returns the name of the preset that a run starts from, and the steps of all runs before."""
    start = presets.read_metadata(presets.find_preset(preset))
    trained = presets.trained_on(start)
    steps = trained.get("steps", 0) + trained.get("steps_before", 0)
    told: dict[str, Any] = {"start": start["name"]}
    if "changed_from" in start or trained.get("start_changed"):
        told["start_changed"] = "by what and on whose pictures is not recorded"
    return {**told, **({"steps_before": steps} if steps else {})}


def _publish(
    model: keras.Model,
    plan: Recipe,
    text: str,
    records: Records,
    train_positions: np.ndarray,
    validation: _Validation,
    folder: pathlib.Path,
) -> pathlib.Path:
    """Saves the trained backbone as a preset with the thresholds of the held-out pairs."""
    backbone = build_backbone(plan.backbone)
    with averaged(model):
        backbone.set_weights(model.layers[1].get_weights())
    faces = FaceEmbedder(backbone, preset_config(plan))
    if plan.backbone.common:
        keep_length(faces, _some_crops(plan, records, train_positions), plan.backbone.common)
    metadata: dict[str, Any] = {
        "name": plan.name,
        "description": plan.description,
        "code_licence": "Apache-2.0",
        **{key: value for key, value in dataclasses.asdict(plan.card).items() if value},
        "trained_on": {
            "crops": len(train_positions),
            "identities": len(np.unique(records.labels[train_positions])),
            "steps": plan.training.steps,
            **(_begun_from(plan.backbone.start) if plan.backbone.start else {}),
            "batch_size": plan.training.batch_size,
            "validation": plan.data.validation,
            "records": records.checksum,
        },
    }
    faces.save_preset(folder, metadata=metadata, recipe=text)
    if validation.usable:
        held_out = evaluation.held_out(
            FaceEmbedder.from_preset(folder), validation.crops, validation.identities
        )
        metadata |= {**held_out.to_metadata(), "measured": presets.stamp(folder)}
        faces.save_preset(folder, metadata=metadata, recipe=text)
    return folder
