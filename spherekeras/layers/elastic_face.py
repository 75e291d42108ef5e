"""A margin drawn anew for every picture."""

from typing import Any

import keras
from keras import ops

from spherekeras.layers.arc_face import ArcFace

Tensor = Any


@keras.saving.register_keras_serializable("spherekeras")
class ElasticFace(ArcFace):
    """ElasticFace: ArcFace or CosFace with a margin from N(m, σ) for every embedding.

    One fixed margin fits no class exactly; a random one lets classes differ. In use and in
    evaluation the margin is m.

    Args:
        units: number of classes.
        margin: m, by default 0.5 for "arc" and 0.35 for "cos".
        sigma: standard deviation of the margin, at least 0.
        form: "arc", `s·cos(θ + m)`, or "cos", `s·(cos θ - m)`.
        scale: s, above 0.
        seed: of the draws.
        **kwargs: of `ArcFace`.

    Raises:
        ValueError: a sigma below 0, an unknown form, or a margin outside its range.

    Source: ElasticFace, arXiv 2109.09416, equations 5 and 6.
    """

    def __init__(
        self,
        units: int,
        margin: float | None = None,
        sigma: float = 0.0125,
        form: str = "arc",
        scale: float = 64.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if form not in ("arc", "cos") or not sigma >= 0:
            raise ValueError(
                "`ElasticFace` expects form='arc' or 'cos' and sigma >= 0. Received: "
                f"form={form!r}, sigma={sigma}."
            )
        default = 0.5 if form == "arc" else 0.35
        super().__init__(units, default if margin is None else margin, scale, **kwargs)
        self.sigma, self.form, self.seed = float(sigma), form, seed
        self.random = keras.random.SeedGenerator(seed)

    def target(self, cosine: Tensor, norm: Tensor, training: bool) -> Tensor:
        margin: Any = self.margin
        if training:
            shape = ops.shape(cosine)
            margin = keras.random.normal(
                shape, self.margin, self.sigma, dtype=cosine.dtype, seed=self.random
            )
        return self.turned(cosine, margin) if self.form == "arc" else cosine - margin

    def get_config(self) -> dict[str, Any]:
        own = {"sigma": self.sigma, "form": self.form, "seed": self.seed}
        return {**super().get_config(), **own}
