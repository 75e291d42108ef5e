"""The networks of the SphereFace paper."""

import keras
from keras import layers

from spherekeras.backbones.prelu import PReLU

UNITS = {  # residual units a stage
    4: (0, 0, 0, 0),
    10: (0, 1, 2, 0),
    20: (1, 2, 4, 1),
    36: (2, 4, 8, 2),
    62: (3, 7, 16, 3),
    64: (3, 8, 16, 3),
}
CHANNELS = (64, 128, 256, 512)


def SphereFaceNet(
    depth: int = 20,
    embedding_dim: int = 512,
    input_shape: tuple[int, int, int] = (112, 96, 3),
    residual_bias: bool = False,
    name: str | None = None,
) -> keras.Model:
    """SphereFace network of 4, 10, 20, 36 or 64 layers: convolutions, PReLU and one dense layer.

    Four stages of 64, 128, 256 and 512 channels. Each opens with a strided 3x3 convolution and
    goes on with residual units (conv, PReLU, conv, PReLU, then the sum). No normalisation, no
    pooling, no dropout: the embedding is a plain dense layer on the flattened features, and
    its length carries meaning in A-Softmax.

    | depth | units a stage | parameters at 112x96 |
    |---|---|---|
    | 4 | 0, 0, 0, 0 | 12,562,496 |
    | 10 | 0, 1, 2, 0 | 15,217,984 |
    | 20 | 1, 2, 4, 1 | 22,666,944 |
    | 36 | 2, 4, 8, 2 | 32,771,392 |
    | 62 | 3, 7, 16, 3 | 47,891,648 |
    | 64 | 3, 8, 16, 3 | 48,186,816 |

    62 is the network that the authors' released file calls SpherefaceNet-64.

    Args:
        depth: 4, 10, 20, 36, 62 or 64.
        embedding_dim: width of the embedding.
        input_shape: (height, width, channels) of the crop.
        residual_bias: whether the residual convolutions have a bias too, as in ports to PyTorch.
        name: of the model, by default "sphereface_<depth>".

    Input shape: `(batch, height, width, 3)`, RGB as `(pixel - 127.5) / 128`.
    Output shape: `(batch, embedding_dim)`, not normalised.

    Raises:
        ValueError: another depth.

    Example:

    >>> import spherekeras as sk
    >>> sk.backbones.SphereFaceNet(depth=4).count_params()
    12562496

    Source: SphereFace, arXiv 1704.08063, table 2, and the authors' released network files
    (initialisation, padding, and residual convolutions without a bias).
    """
    if depth not in UNITS:
        raise ValueError(
            f"`SphereFaceNet` comes in depths {', '.join(map(str, UNITS))}. Received: "
            f"depth={depth}."
        )
    image = x = keras.Input(input_shape, name="image")
    for stage, (channels, units) in enumerate(zip(CHANNELS, UNITS[depth], strict=True), 1):
        # Keras' "same" pads an even side by (0, 1) at stride 2: another network.
        x = layers.ZeroPadding2D(1, name=f"stage{stage}_pad")(x)
        x = layers.Conv2D(
            channels, 3, strides=2, kernel_initializer="lecun_uniform", name=f"stage{stage}_conv"
        )(x)
        x = _prelu(f"stage{stage}_prelu")(x)
        for unit in range(1, units + 1):
            y = x
            for half in (1, 2):
                prefix = f"stage{stage}_unit{unit}_"
                y = layers.Conv2D(
                    channels,
                    3,
                    padding="same",
                    use_bias=residual_bias,
                    kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                    name=f"{prefix}conv{half}",
                )(y)
                y = _prelu(f"{prefix}prelu{half}")(y)
            x = layers.Add(name=f"stage{stage}_unit{unit}_add")([x, y])
    x = layers.Flatten(name="flatten")(x)
    embedding = layers.Dense(embedding_dim, kernel_initializer="lecun_uniform", name="embedding")(x)
    return keras.Model(image, embedding, name=name or f"sphereface_{depth}")


def _prelu(name: str) -> PReLU:
    return PReLU(alpha_initializer=keras.initializers.Constant(0.25), shared_axes=[1, 2], name=name)
