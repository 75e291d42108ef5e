"""The SphereFace networks with ReLU, as the authors' later library has them."""

import keras
from keras import layers

from spherekeras.backbones.batch_normalization import default_batch_norm
from spherekeras.backbones.sphereface_net import CHANNELS, UNITS


def SFNet(
    depth: int = 20,
    embedding_dim: int = 512,
    input_shape: tuple[int, int, int] = (112, 112, 3),
    batch_norm: bool = False,
    add_first: bool = True,
    name: str | None = None,
) -> keras.Model:
    """SFNet: the stages of `SphereFaceNet` with ReLU, with or without batch normalisation.

    Without it every convolution has a bias; with it none has, and the embedding is normalised
    too. SphereFace2 and SphereFace Revived were trained on these networks.

    | depth | units a stage | parameters | with batch normalisation |
    |---|---|---|---|
    | 4 | 0, 0, 0, 0 | 14,396,544 | 14,398,528 |
    | 20 | 1, 2, 4, 1 | 24,500,992 | 24,506,688 |
    | 64 | 3, 8, 16, 3 | 50,020,864 | 50,036,544 |

    Args:
        depth: 4, 10, 20, 36, 62 or 64; the units are those of `SphereFaceNet`.
        embedding_dim: width of the embedding.
        input_shape: (height, width, channels) of the crop.
        batch_norm: whether there is batch normalisation.
        add_first: whether a residual unit ends in the sum, then ReLU; else in ReLU, then the sum
            (the library's "deprecated" networks, as in the SphereFace paper).
        name: of the model, by default "sfnet_<depth>".

    Input shape: `(batch, height, width, 3)`, RGB as `(pixel - 127.5) / 127.5`.
    Output shape: `(batch, embedding_dim)`, not normalised.

    Raises:
        ValueError: another depth.

    Example:

    >>> import spherekeras as sk
    >>> sk.backbones.SFNet(depth=4).output_shape
    (None, 512)

    Source: OpenSphere, github.com/ydwen/opensphere; SphereFace Revived, arXiv 2109.05565.
    """
    if depth not in UNITS:
        raise ValueError(
            f"`SFNet` comes in depths {', '.join(map(str, UNITS))}. Received: depth={depth}."
        )

    def conv(x: keras.KerasTensor, channels: int, stride: int, name: str) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = layers.Conv2D(
            channels,
            3,
            strides=stride,
            use_bias=not batch_norm,
            kernel_initializer=_initializer(stride, add_first),
            name=name,
        )(x)
        return default_batch_norm(f"{name}_bn")(x) if batch_norm else x

    image = x = keras.Input(input_shape, name="image")
    for stage, (channels, units) in enumerate(zip(CHANNELS, UNITS[depth], strict=True), 1):
        x = conv(x, channels, 2, f"stage{stage}_conv")
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
        for unit in range(1, units + 1):
            prefix = f"stage{stage}_unit{unit}_"
            y = conv(x, channels, 1, f"{prefix}conv1")
            y = layers.ReLU(name=f"{prefix}relu1")(y)
            y = conv(y, channels, 1, f"{prefix}conv2")
            add, relu = layers.Add(name=f"{prefix}add"), layers.ReLU(name=f"{prefix}relu2")
            x = relu(add([x, y])) if add_first else add([x, relu(y)])
    x = layers.Flatten(name="flatten")(x)
    embedding = layers.Dense(embedding_dim, kernel_initializer="lecun_uniform", name="embedding")(x)
    if batch_norm:
        embedding = default_batch_norm("embedding_bn")(embedding)
    return keras.Model(image, embedding, name=name or f"sfnet_{depth}")


def _initializer(stride: int, add_first: bool) -> keras.initializers.Initializer:
    if add_first:
        return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    if stride > 1:
        return keras.initializers.GlorotNormal()
    return keras.initializers.RandomNormal(stddev=0.01)
