"""IResNet, the field's large backbone."""

import keras
from keras import layers

from spherekeras.backbones.batch_normalization import default_batch_norm
from spherekeras.backbones.prelu import PReLU
from spherekeras.backbones.sphereface_net import CHANNELS

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}  # a stage


def IResNet(
    depth: int = 50,
    embedding_dim: int = 512,
    input_shape: tuple[int, int, int] = (112, 112, 3),
    name: str | None = None,
) -> keras.Model:
    """IResNet ("improved" residual network, also R18 to R100) of ArcFace and its descendants.

    A 3x3 convolution at full resolution, then four stages of blocks (BN, conv, BN, PReLU, conv,
    BN, then the sum, with no activation after it). The first block of a stage halves the map in
    its second convolution, and its shortcut is a strided 1x1 convolution with BN. The embedding
    is a dense layer on the flattened map between two batch normalisations.

    | depth | blocks a stage | parameters |
    |---|---|---|
    | 18 | 2, 2, 2, 2 | 24,025,600 |
    | 34 | 3, 4, 6, 3 | 34,139,328 |
    | 50 | 3, 4, 14, 3 | 43,590,848 |
    | 100 | 3, 13, 30, 3 | 65,156,160 |

    Args:
        depth: 18, 34, 50 or 100.
        embedding_dim: width of the embedding.
        input_shape: (height, width, channels) of the crop.
        name: of the model, by default "iresnet_<depth>".

    Input shape: `(batch, height, width, 3)`, RGB as `(pixel - 127.5) / 127.5`.
    Output shape: `(batch, embedding_dim)`, not normalised.

    Raises:
        ValueError: another depth.

    Example:

    >>> import spherekeras as sk
    >>> sk.backbones.IResNet(depth=18).output_shape
    (None, 512)

    Source: ArcFace, arXiv 1801.07698, section 3.1 and its authors' PyTorch code.
    """
    if depth not in BLOCKS:
        raise ValueError(
            f"`IResNet` comes in depths {', '.join(map(str, BLOCKS))}. Received: depth={depth}."
        )
    image = keras.Input(input_shape, name="image")
    x = _prelu("stem_prelu")(default_batch_norm("stem_bn")(_conv(image, 64, 3, 1, "stem_conv")))
    for stage, (channels, blocks) in enumerate(zip(CHANNELS, BLOCKS[depth], strict=True), 1):
        for block in range(1, blocks + 1):
            x = _block(x, channels, 2 if block == 1 else 1, f"stage{stage}_block{block}_")
    x = default_batch_norm("head_bn")(x)
    x = layers.Flatten(name="flatten")(x)
    embedding = layers.Dense(
        embedding_dim,
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        name="embedding",
    )(x)
    embedding = default_batch_norm("embedding_bn")(embedding)
    return keras.Model(image, embedding, name=name or f"iresnet_{depth}")


def _block(x: keras.KerasTensor, channels: int, stride: int, prefix: str) -> keras.KerasTensor:
    y = default_batch_norm(f"{prefix}bn1")(x)
    y = _conv(y, channels, 3, 1, f"{prefix}conv1")
    y = _prelu(f"{prefix}prelu")(default_batch_norm(f"{prefix}bn2")(y))
    y = _conv(y, channels, 3, stride, f"{prefix}conv2")
    y = default_batch_norm(f"{prefix}bn3")(y)
    if stride > 1:
        x = _conv(x, channels, 1, stride, f"{prefix}shortcut")
        x = default_batch_norm(f"{prefix}shortcut_bn")(x)
    return layers.Add(name=f"{prefix}add")([x, y])


def _conv(
    x: keras.KerasTensor, channels: int, size: int, stride: int, name: str
) -> keras.KerasTensor:
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.1)
    return layers.Conv2D(
        channels, size, strides=stride, use_bias=False, kernel_initializer=initializer, name=name
    )(x)


def _prelu(name: str) -> PReLU:
    return PReLU(keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name)
