"""MobileFaceNet, the field's default on phones."""

import keras
from keras import layers

from spherekeras.backbones.batch_normalization import default_batch_norm
from spherekeras.backbones.prelu import PReLU

# Depthwise convolutions with a stride, or over a whole map, stay in float32: TensorFlow's
# bfloat16 form of their gradient takes three to four times as long on a processor.
_UNMIXED = "float32"

# (expansion, channels, blocks, stride of the first block)
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def MobileFaceNet(
    embedding_dim: int = 128,
    input_shape: tuple[int, int, int] = (112, 96, 3),
    activation: str = "prelu",
    name: str = "mobile_facenet",
) -> keras.Model:
    """MobileFaceNet: inverted bottlenecks with PReLU and a global depthwise convolution.

    About a million parameters. In place of average pooling, which treats the corner of a crop
    like its centre, a depthwise convolution over the whole last feature map learns a weight
    for every place.

    Args:
        embedding_dim: width of the embedding.
        input_shape: (height, width, channels); height and width are multiples of 16.
        activation: "prelu" as in the paper; "relu" for the twin that runs in integers, since
            integer kernels fuse ReLU into the convolution before it and have no PReLU.
        name: of the model.

    Input shape: `(batch, height, width, 3)`, RGB as `(pixel - 127.5) / 128`.
    Output shape: `(batch, embedding_dim)`, not normalised.

    Raises:
        ValueError: a height or width that is not a multiple of 16, or another activation.

    Example:

    >>> import spherekeras as sk
    >>> sk.backbones.MobileFaceNet().output_shape
    (None, 128)

    Source: MobileFaceNets, arXiv 1804.07573, table 1.
    """
    height, width, _ = input_shape
    if height % 16 or width % 16:
        raise ValueError(
            "`MobileFaceNet` expects a height and width that are multiples of 16, such as "
            f"(112, 96, 3). Received: input_shape={tuple(input_shape)}."
        )
    if activation not in ("prelu", "relu"):
        raise ValueError(
            f"`MobileFaceNet` knows the activations 'prelu' and 'relu'. Received: {activation!r}."
        )
    image = keras.Input(input_shape, name="image")
    x = _conv(image, 64, 3, 2, activation, "stem")
    x = _depthwise(x, 3, 1, activation, "stem_depthwise")
    for stage, (expansion, channels, blocks, stride) in enumerate(_STAGES, 1):
        for block in range(1, blocks + 1):
            step = stride if block == 1 else 1
            x = _bottleneck(x, expansion, channels, step, activation, f"stage{stage}_block{block}")
    x = _conv(x, 512, 1, 1, activation, "head")
    area = (height // 16, width // 16)
    x = layers.DepthwiseConv2D(area, use_bias=False, dtype=_UNMIXED, name="global")(x)
    x = default_batch_norm("global_bn")(x)
    x = layers.Conv2D(embedding_dim, 1, use_bias=False, name="linear")(x)
    x = default_batch_norm("linear_bn")(x)
    embedding = layers.Flatten(name="embedding")(x)
    return keras.Model(image, embedding, name=name)


def _bottleneck(
    x: keras.KerasTensor,
    expansion: int,
    channels: int,
    stride: int,
    activation: str,
    name: str,
) -> keras.KerasTensor:
    inside = int(x.shape[-1]) * expansion
    y = _conv(x, inside, 1, 1, activation, f"{name}_expand")
    y = _depthwise(y, 3, stride, activation, f"{name}_depthwise")
    y = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(y)
    y = default_batch_norm(f"{name}_project_bn")(y)
    if stride == 1 and int(x.shape[-1]) == channels:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y


def _conv(
    x: keras.KerasTensor, channels: int, size: int, stride: int, activation: str, name: str
) -> keras.KerasTensor:
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    x = layers.Conv2D(channels, size, strides=stride, use_bias=False, name=name)(x)
    return _activated(default_batch_norm(f"{name}_bn")(x), activation, name)


def _depthwise(
    x: keras.KerasTensor, size: int, stride: int, activation: str, name: str
) -> keras.KerasTensor:
    x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    dtype = _UNMIXED if stride > 1 else None
    x = layers.DepthwiseConv2D(size, strides=stride, use_bias=False, dtype=dtype, name=name)(x)
    return _activated(default_batch_norm(f"{name}_bn")(x), activation, name)


def _activated(x: keras.KerasTensor, activation: str, name: str) -> keras.KerasTensor:
    if activation == "relu":
        return layers.ReLU(name=f"{name}_relu")(x)
    slopes = keras.initializers.Constant(0.25)
    return PReLU(slopes, shared_axes=[1, 2], name=f"{name}_prelu")(x)
