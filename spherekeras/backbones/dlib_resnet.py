"""dlib's face recognition ResNet."""

import keras
from keras import layers, ops

_BLOCKS = (3, 4, 3, 3, 1)  # a stage; the first block of each stage but the first halves the map


def DlibResNet(
    embedding_dim: int = 128,
    input_shape: tuple[int, int, int] = (150, 150, 3),
    widths: tuple[int, ...] = (32, 64, 128, 256, 256),
    name: str = "dlib_resnet",
) -> keras.Model:
    """dlib's ResNet of 29 convolutions; batch norm and mean colour are folded into them.

    An independent network to check an aligner and an evaluation with, and a teacher. Where a
    block halves the map, its shortcut is an average pooling, and the narrower or smaller of the
    two summands is filled up with zeros.

    Args:
        embedding_dim: width of the embedding.
        input_shape: (height, width, channels); the published weights are for 150x150.
        widths: channels of the five stages, none less than the one before.
        name: of the model.

    Input shape: `(batch, 150, 150, 3)`, RGB as `(pixel - 127.5) / 128`, template "dlib_150x150".
    Output shape: `(batch, embedding_dim)`, not normalised. Under a Euclidean distance of 0.6 dlib
        takes two faces for one person.

    Raises:
        ValueError: not five widths, or one that is less than the one before.

    Example:

    >>> DlibResNet().output_shape
    (None, 128)

    Source: King, "High Quality Face Recognition with Deep Metric Learning", blog.dlib.net, 2017;
    the network is that of dlib's `dnn_face_recognition_ex.cpp`.
    """
    if len(widths) != len(_BLOCKS) or list(widths) != sorted(widths):
        raise ValueError(
            "`DlibResNet` expects five widths, none less than the one before, such as "
            f"(32, 64, 128, 256, 256). Received: widths={widths}."
        )
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(widths[0], 7, strides=2, activation="relu", name="stem")(image)
    x = layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    for stage, block, halves in blocks():
        x = _residual(x, widths[stage], halves, block)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    embedding = layers.Dense(embedding_dim, use_bias=False, name="embedding")(x)
    return keras.Model(image, embedding, name=name)


def blocks() -> list[tuple[int, str, bool]]:
    """Index of the stage, name, and whether it halves the map, of each block from the input on."""
    return [
        (stage, f"stage{stage + 1}_block{block + 1}", stage > 0 and block == 0)
        for stage, count in enumerate(_BLOCKS)
        for block in range(count)
    ]


def _residual(x: keras.KerasTensor, width: int, halves: bool, name: str) -> keras.KerasTensor:
    stride, padding = (2, "valid") if halves else (1, "same")
    y = layers.Conv2D(
        width, 3, strides=stride, padding=padding, activation="relu", name=f"{name}_conv1"
    )(x)
    y = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv2")(y)
    if halves:
        x = layers.AveragePooling2D(2, name=f"{name}_shortcut")(x)
        shape = [max(sizes) for sizes in zip(x.shape[1:], y.shape[1:], strict=True)]
        x, y = _filled(x, shape), _filled(y, shape)
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _filled(x: keras.KerasTensor, shape: list[int]) -> keras.KerasTensor:
    """Zeros after the end of each axis, up to (height, width, channels)."""
    missing = [wanted - got for wanted, got in zip(shape, x.shape[1:], strict=True)]
    if not any(missing):
        return x
    return ops.pad(x, [(0, 0), *((0, count) for count in missing)])
