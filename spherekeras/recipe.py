"""A recipe: all that decides how a network is trained, in one TOML file."""

import dataclasses
import difflib
import os
import pathlib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

from spherekeras.data.augmentation import Augmentation
from spherekeras.errors import RecipeError

HEADS = (
    "ASoftmax",
    "AdaFace",
    "ArcFace",
    "CenterLoss",
    "ContrastiveSoftmax",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "LSoftmax",
    "MagFace",
    "MarginLinear",
    "NormFace",
    "SoftmaxLinear",
    "SphereFace2",
    "SphereFacePlus",
    "SphereFaceR",
    "SubCenterArcFace",
)
BACKBONES = ("SphereFaceNet", "MobileFaceNet", "SFNet", "IResNet")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which crops are trained on.

    Attributes:
        min_images: identities with fewer crops are left out.
        max_images: of identities with more crops only so many are taken; 0 for all.
        validation: fraction of the identities (whole families) held out.
    """

    min_images: int = 1
    max_images: int = 0
    validation: float = 0.05


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The network: a name of `spherekeras.backbones` and its arguments.

    Attributes:
        start: a preset (name or folder) whose weights are taken over layer by layer where name
            and shapes agree: the same network to be refined, or a shallower SphereFaceNet to
            grow from, whose added residual units begin close to the identity. A network
            of the same name has the same `arguments`, or the recipe states what differs; what it
            learned of other channel order and scale of pixels is kept.
        common: length of a constant component that the embeddings of the preset get after
            training, over their mean distance from their mean: see
            `spherekeras.common_part.keep_length`.
        arguments: further ones of that function, such as `{ batch_norm = true }` of SFNet.
    """

    name: str = "SphereFaceNet"
    depth: int | None = None
    embedding_dim: int = 512
    height: int = 112
    width: int = 96
    start: str = ""
    common: float = 0.0
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Head:
    """The head: a name of `spherekeras.layers` and its arguments, whatever that layer takes.

    A list in the file is a tuple here, an empty one stands for None (`annealing = []`).
    """

    name: str = "ASoftmax"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network whose embeddings are imitated, in place of a head and labels.

    Attributes:
        preset: its name or folder; none to train a head on labels.
        varied: whether it sees each crop as it is varied for the imitator, at every step, and not
            once the undisturbed crop.
        common: share of its mean embedding that stays in what is imitated: 0 shows only how faces
            differ, 1 the embedding as it is.
    """

    preset: str = ""
    varied: bool = False
    common: float = 0.0


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Stochastic gradient descent with momentum, or AdamW.

    Attributes:
        name: "SGD" or "AdamW".
        learning_rate: at its highest.
        momentum: of the gradient (SGD).
        weight_decay: SGD: coupled (this times the weight is added to its gradient); AdamW:
            decoupled, as its paper has it.
        warmup: steps of linear growth from 0.
        milestones: steps at which the rate is divided by 10; none for a cosine fall to 0.
        clip: largest norm of the gradient; 0 for no limit.
        average: how much of the running average of the weights a step keeps, such as 0.999;
            validation and the preset take that average. 0 for none.
    """

    name: str = "SGD"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    clip: float = 0.0
    average: float = 0.0


@dataclasses.dataclass(frozen=True)
class Training:
    """Length, batch and number format.

    Attributes:
        steps: of training.
        batch_size: the global batch.
        accumulation: parts that a batch is cut into, whose gradients are added up before the
            weights change: the memory of one part. (Batch norm, and what a head takes from the
            batch as a whole, then go by the part.) Needs one TensorFlow replica, or JAX.
        checkpoint_steps: steps between two checkpoints (an "epoch" of the logs).
        precision: "float32" or "mixed_bfloat16"; heads stay in float32. (float16 needs a loss
            scale whose skipped steps no step counter sees, so it is not offered.)
    """

    steps: int = 1000
    batch_size: int = 64
    accumulation: int = 1
    checkpoint_steps: int = 200
    precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class Card:
    """What the preset's card says and no program can know."""

    weights_licence: str = ""
    terms: str = ""
    overlap: str = ""
    intended_use: str = ""
    limits: str = ""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides how a network is trained.

    Attributes:
        name: of the preset.
        description: one sentence for its card.
        seed: of initial weights, order and augmentation, and of which crops `max_images` leaves.
    """

    name: str
    description: str = ""
    seed: int = 0
    data: Data = Data()
    backbone: Backbone = Backbone()
    head: Head = Head()
    teacher: Teacher = Teacher()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    card: Card = Card()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise RecipeError(
                "A recipe's name is made of letters, digits, '_', '-' and '.', and starts with a "
                f"letter or digit. Received: name={self.name!r}."
            )
        t, o = self.training, self.optimizer
        ranges: dict[str, tuple[float, float]] = {
            "seed": (0, 2**31 - 1),
            "data.min_images": (1, 10**9),
            "data.max_images": (0, 10**9),
            "data.validation": (0, 0.9),
            "backbone.embedding_dim": (1, 65536),
            "backbone.common": (0, 10),
            "teacher.common": (0, 1),
            "optimizer.learning_rate": (1e-12, 1e12),
            "optimizer.momentum": (0, 0.999999),
            "optimizer.weight_decay": (0, 1),
            "optimizer.warmup": (0, max(t.steps - 1, 0)),
            "optimizer.clip": (0, 1e12),
            "optimizer.average": (0, 0.999999),
            "training.steps": (1, 10**12),
            "training.batch_size": (1, 10**6),
            "training.accumulation": (1, t.batch_size),
            "training.checkpoint_steps": (1, 10**9),
            "augmentation.shift": (0, 56),
            "augmentation.zoom": (0, 0.5),
            "augmentation.turn": (0, 180),
            **{
                f"augmentation.{field.name}": (0, 1)
                for field in dataclasses.fields(Augmentation)
                if field.name not in ("mirror", "shift", "zoom", "turn")
            },
        }
        for key, (low, high) in ranges.items():
            value: Any = self
            for part in key.split("."):
                value = getattr(value, part)
            if not low <= value <= high:
                raise RecipeError(
                    f"Recipe key `{key}` lies between {low:g} and {high:g}. Received: {value}."
                )
        falls = list(o.milestones)
        if falls != sorted(set(falls)) or not all(o.warmup < m < t.steps for m in falls):
            raise RecipeError(
                "`optimizer.milestones` rise between `optimizer.warmup` and `training.steps`. "
                f"Received: {falls}."
            )
        if t.steps % t.checkpoint_steps:
            raise RecipeError(
                f"`training.steps` ({t.steps}) is a multiple of `training.checkpoint_steps` "
                f"({t.checkpoint_steps}). Set steps = "
                f"{-(-t.steps // t.checkpoint_steps) * t.checkpoint_steps}."
            )
        _known("training.precision", t.precision, ("float32", "mixed_bfloat16"))
        _known("backbone.name", self.backbone.name, BACKBONES)
        _known("head.name", self.head.name, HEADS)
        _known("optimizer.name", self.optimizer.name, ("SGD", "AdamW"))
        if self.teacher.preset and self.head != Head():
            raise RecipeError(
                "A recipe has a `[head]` that learns labels or a `[teacher]` that is imitated. "
                "Received: both. Imitate first, then start a second recipe from that preset "
                "(`backbone.start`)."
            )
        if not self.teacher.preset and self.teacher != Teacher():
            raise RecipeError(
                "`[teacher]` names whom to imitate. Received: "
                f"{self.teacher}. Add `preset`, or take the section out."
            )
        if o.name == "AdamW" and o.momentum != Optimizer.momentum:
            raise RecipeError(
                "`optimizer.momentum` belongs to SGD; AdamW has its own. Received: "
                f"{o.momentum}. Take it out."
            )
        shape = [self.backbone.height, self.backbone.width, 3]
        twice = {"depth": self.backbone.depth, "embedding_dim": self.backbone.embedding_dim}
        for key, value in {**twice, "input_shape": shape}.items():
            if self.backbone.arguments.get(key, value) != value:
                raise RecipeError(
                    f"`backbone.arguments` contradicts the recipe: {key} is "
                    f"{self.backbone.arguments[key]!r} there and {value!r} in `[backbone]` "
                    "(`depth`, `embedding_dim`, `height`, `width`). Take it out."
                )
        if self.backbone.width not in (96, 112) or self.backbone.height != 112:
            raise RecipeError(
                "A template exists for crops of 112x96 and 112x112 (height x width). Received: "
                f"{self.backbone.height}x{self.backbone.width}. Set backbone.width to 96 or 112."
            )
        if (self.backbone.name != "MobileFaceNet") != (self.backbone.depth is not None):
            raise RecipeError(
                "`backbone.depth` belongs to SphereFaceNet and SFNet (4, 10, 20, 36 or 64) and "
                "IResNet (18, 34, 50 or 100), which need it. Received: "
                f"name={self.backbone.name!r}, depth={self.backbone.depth}."
            )


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe.

    Raises:
        RecipeError: no such file, not TOML, an unknown key (the nearest is named), or a value of
            the wrong kind or out of range.
    """
    path = pathlib.Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"No recipe at {path}. Give the path of a .toml file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not a TOML recipe: {error}.") from None
    values.setdefault("name", path.stem)
    try:
        return _build(Recipe, values, "")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a TOML table, every key and type checked."""
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise RecipeError(_unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in hints]))
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise RecipeError(f"`{key}` is a section: write `[{key}]`. Received: {value!r}.")
            if hint is Head:
                name = {k: value[k] for k in ("name",) if k in value}
                value = {**name, "arguments": _head_arguments(value)}
            arguments[key] = _build(typing.cast(type, hint), value, f"{key}.")
        else:
            arguments[key] = _value(f"{prefix}{key}", hint, value)
    return kind(**arguments)


def _head_arguments(values: dict[str, Any]) -> dict[str, Any]:
    if "calls_per_step" in values:
        raise RecipeError(
            "`head.calls_per_step` follows from `training.accumulation`. Received: "
            f"{values['calls_per_step']!r}. Leave it out."
        )
    return {
        key: (tuple(value) or None) if isinstance(value, list) else value
        for key, value in values.items()
        if key != "name"
    }


def _value(key: str, hint: Any, value: Any) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if typing.get_origin(choice) is tuple and isinstance(value, list):
            return tuple(_value(key, typing.get_args(choice)[0], item) for item in value)
        if choice is float and type(value) in (int, float):
            return float(value)
        if typing.get_origin(choice) is Mapping and isinstance(value, dict):
            return value
        if isinstance(choice, type) and type(value) is choice:
            return value
    known = {"tuple": "a list", "Mapping": "a table"}
    names = (str(getattr(c, "__name__", c)) for c in choices if c is not type(None))
    wanted = " or ".join(known.get(name, name) for name in names)
    raise RecipeError(f"Recipe key `{key}` wants {wanted}. Received: {value!r}.")


def _known(key: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        nearest = difflib.get_close_matches(value, names, 1, 0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise RecipeError(
            f"Recipe key `{key}` knows {', '.join(names)}. Received: {value!r}.{hint}"
        )


def _unknown(key: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(key, names, 1, 0.5)
    hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
    return f"Unknown recipe key `{key}`.{hint} Known: {', '.join(names)}."
