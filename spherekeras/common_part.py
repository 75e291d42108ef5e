"""What all embeddings of a network have in common: a constant in its last bias.

It is where a network looks at when it looks at no face in particular. How far an embedding lies
from it tells how much the network saw; the cosine of embeddings that lie around the origin forgets
that. Three moves of the last bias decide it, and none of them changes how faces differ.
"""

from typing import Any

import numpy as np

from spherekeras.embedder import FaceEmbedder


def start_around(faces: FaceEmbedder, crops: np.ndarray, targets: np.ndarray) -> None:
    """Moves the last bias of a network so that its outputs lie around the mean of its targets.

    A network that starts from a preset has learned how faces differ; were it left to find what
    the targets have in common besides, the error of that would undo it.

    Args:
        faces: with the network; one without a last bias (or a last batch norm) stays as it is.
        crops: some, of its size, uint8 `(n, height, width, 3)`.
        targets: what it is to give for them, of unit length, `(n, dim)`.
    """
    here, length, _ = _outputs(faces, crops)
    there = targets.mean(axis=0)
    apart = np.linalg.norm(targets - there, axis=1).mean()
    _move(faces, there * (length / max(apart, 1e-12)) - here)


def start_centred(faces: FaceEmbedder, crops: np.ndarray) -> None:
    """Moves the last bias of a network so that its outputs lie around the origin.

    A head that learns labels measures angles at the origin: what all embeddings have in common
    would take from the room that its classes have.

    Args:
        faces: with the network; one without a last bias (or a last batch norm) stays as it is.
        crops: some, of its size, uint8 `(n, height, width, 3)`.
    """
    _move(faces, -_outputs(faces, crops)[0])


def keep_length(faces: FaceEmbedder, crops: np.ndarray, share: float) -> None:
    """Gives all embeddings a constant component, through which a cosine minds their length.

    An A-Softmax head takes logits of `‖x‖·cos θ`, so the length of an embedding is free to tell
    how much the network saw. The constant, of length c, stands at a right angle to how faces differ
    (the direction in which the outputs vary least), so two embeddings have the cosine
    `(x·y + c²) / √((‖x‖² + c²)(‖y‖² + c²))`: two long ones must point the same way to be one
    person's, two short ones decide little.

    Args:
        faces: with the network.
        crops: some, of its size, uint8 `(n, height, width, 3)`.
        share: c, over the mean distance of its outputs from their mean.

    Raises:
        ValueError: a network without a last bias (or a last batch norm).

    Source: this project; what it is worth is measured in `benchmarks/common.py`.
    """
    if last_bias(faces) is None:
        raise ValueError(
            f"A constant component stands in the bias of the last layer. Received: "
            f"{faces.backbone.name}, whose last layer has none."
        )
    mean, length, outputs = _outputs(faces, crops)
    least = np.linalg.eigh(np.cov(outputs.T.astype(np.float64)))[1][:, 0]
    least *= 1 if least @ mean >= 0 else -1
    _move(faces, share * length * least)


def _outputs(faces: FaceEmbedder, crops: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Mean of a network's outputs, their mean distance from it, and the outputs."""
    outputs = faces.embed_crops(crops, normalize=False)
    mean = outputs.mean(axis=0)
    return mean, float(np.linalg.norm(outputs - mean, axis=1).mean()), outputs


def last_bias(faces: FaceEmbedder) -> Any:
    """The bias of the last layer with weights, where it is one a dimension."""
    last = next(layer for layer in reversed(faces.backbone.layers) if layer.weights)
    bias = getattr(last, "beta", None)
    bias = getattr(last, "bias", None) if bias is None else bias
    return bias if bias is not None and bias.shape == faces.backbone.output_shape[1:] else None


def _move(faces: FaceEmbedder, by: np.ndarray) -> None:
    bias = last_bias(faces)
    if bias is not None:
        bias.assign_add(by)
