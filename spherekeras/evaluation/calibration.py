"""From a similarity to the probability that two faces are one person's."""

import dataclasses
import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics

Method = Literal["logistic", "isotonic"]
_BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted map from similarity to probability: plain numbers, never decreasing.

    Attributes:
        method: "logistic" or "isotonic".
        fitted_prior: share of same pairs among those it was fitted on.
        prior: the share of same pairs that its probabilities hold for.
        slope, intercept: "logistic": the log odds at `fitted_prior` are
            `slope * similarity + intercept`.
        knots: "isotonic": (similarity, probability at `fitted_prior`), linear between, constant
            outside.
    """

    method: Method
    fitted_prior: float
    prior: float
    slope: float = 0.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def probability(self, similarities: ArrayLike) -> NDArray[np.float64]:
        """Returns the probability that a pair is one person's, where `prior` of all pairs are.

        Args:
            similarities: finite numbers of any shape, made as those that it was fitted on.

        Returns:
            float64 of the same shape, from 0 to 1.

        Raises:
            DataError: on a similarity that is not finite.

        Example:

        >>> calibration = Calibration("logistic", 0.5, 0.5, slope=10.0, intercept=-4.0)
        >>> calibration.probability([0.4, 0.9]).round(4).tolist()
        [0.5, 0.9933]
        """
        scores = np.asarray(similarities, np.float64)
        if not np.isfinite(scores).all():
            raise DataError(
                "Expected finite similarities. Received: "
                f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} are NaN or infinite. "
                "Check the embeddings they come from: `numpy.isfinite(embeddings).all()`."
            )
        shift = _odds(self.prior) / _odds(self.fitted_prior)
        with np.errstate(over="ignore", divide="ignore"):  # infinite odds against are probability 0
            if self.method == "logistic":
                against = np.exp(-(self.slope * scores + self.intercept))
            else:
                x, y = np.array(self.knots).T
                fitted = np.interp(scores, x, y)
                against = (1 - fitted) / fitted
        return np.asarray(1 / (1 + against / shift))

    def with_prior(self, prior: float) -> "Calibration":
        """Returns the calibration for another share of same pairs.

        The log odds move by the difference of the log odds of the priors (Bayes): true where the
        similarities of same pairs, and those of different pairs, are distributed as they were.

        Args:
            prior: in (0, 1): one in a thousand pairs at a gate is 0.001.

        Raises:
            DataError: on a prior outside (0, 1).

        Example:

        >>> even = Calibration("logistic", 0.5, 0.5, slope=10.0, intercept=-4.0)
        >>> even.with_prior(0.1).probability([0.4]).round(4).tolist()
        [0.1]
        """
        return dataclasses.replace(self, prior=_checked_prior(prior))

    def to_dict(self) -> dict[str, Any]:
        """Returns the calibration ready for JSON."""
        values: dict[str, Any] = {
            "method": self.method,
            "fitted_prior": self.fitted_prior,
            "prior": self.prior,
        }
        if self.method == "logistic":
            return {**values, "slope": self.slope, "intercept": self.intercept}
        return {**values, "knots": [list(knot) for knot in self.knots]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """Returns the calibration that `to_dict` wrote.

        Raises:
            DataError: on anything else, such as a map that decreases.

        Example:

        >>> calibration = Calibration("isotonic", 0.5, 0.5, knots=((0.1, 0.0), (0.7, 1.0)))
        >>> Calibration.from_dict(calibration.to_dict()) == calibration
        True
        """
        try:
            wanted = {"slope", "intercept"} if values.get("method") == "logistic" else {"knots"}
            good = values.keys() == {"method", "fitted_prior", "prior"} | wanted
            read = cls(
                values["method"],
                float(values["fitted_prior"]),
                float(values["prior"]),
                float(values.get("slope", 0.0)),
                float(values.get("intercept", 0.0)),
                tuple((float(x), float(y)) for x, y in values.get("knots", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            good = False
        else:
            x, y = np.array(read.knots or ((0.0, 0.0),)).T
            good = (
                good
                and read.method in get_args(Method)
                and 0 < read.fitted_prior < 1
                and 0 < read.prior < 1
                and 0 <= read.slope < math.inf
                and math.isfinite(read.intercept)
                and bool(read.knots) == (read.method == "isotonic")
                and bool(np.isfinite(x).all() and (np.diff(x) > 0).all())
                and bool((np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1)
            )
        if not good:
            raise DataError(
                "Expected a calibration as `to_dict` writes it: method, fitted_prior, prior, and "
                "slope and intercept or knots, never decreasing. Received: "
                f"{_shown(values)}. Write it anew: `json.dumps(calibration.to_dict())`."
            )
        return read


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """How well probabilities agree with what came true.

    Attributes:
        calibration_error: expected calibration error (ECE): |mean probability - share of same
            pairs| of each bin, weighted by its pairs.
        brier: mean squared difference of probability and truth (1 or 0).
        log_loss: mean of -ln(probability of the truth), in nats; probabilities are kept 2**-52
            from 0 and 1, since a pair that was thought impossible would make it infinite.
        counts: (bins,) pairs in each bin of equal width from 0 to 1.
        probabilities: (bins,) their mean probability; NaN in an empty bin.
        shares: (bins,) share of same pairs; NaN in an empty bin.
    """

    calibration_error: float
    brier: float
    log_loss: float
    counts: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    shares: NDArray[np.float64]


def fit_calibration(
    similarities: ArrayLike,
    same: ArrayLike,
    method: Method = "logistic",
    prior: float | None = None,
) -> Calibration:
    """Fits the probability that a pair of this similarity is one person's.

    Fit on pairs that are judged nowhere else (`out_of_fold` does so fold by fold). "logistic" has
    two numbers and needs few pairs; its targets are Platt's, so that it stays finite where a
    threshold parts the pairs without error. "isotonic" takes any rising shape; it wants about a
    thousand pairs, and gives 0 and 1 at the ends. Either is constant where same pairs are not the
    more alike ones.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.
        method: "logistic" or "isotonic".
        prior: the share of same pairs that the probabilities are to hold for, in (0, 1); by
            default that of these pairs, which in a verification list is far above that of life.

    Raises:
        DataError: as `metrics.roc`, on an unknown method or a prior outside (0, 1), or where
            scikit-learn is missing.

    Example:

    >>> calibration = fit_calibration([0.9, 0.7, 0.4, 0.5, 0.2, 0.1], [1, 1, 1, 0, 0, 0])
    >>> calibration.fitted_prior, bool(calibration.probability(0.8) > 0.5)
    (0.5, True)

    Source: Platt, "Probabilistic outputs for support vector machines", 1999; Zadrozny and Elkan,
    "Transforming classifier scores into accurate multiclass probability estimates", 2002.
    """
    if method not in get_args(Method):
        raise DataError(f'Expected method "logistic" or "isotonic". Received: {method!r}.')
    metrics.roc(similarities, same)  # checks the pairs
    scores, truth = np.asarray(similarities, np.float64), metrics.booleans(same)
    share = float(truth.mean())
    wanted = share if prior is None else _checked_prior(prior)
    if method == "isotonic":
        return Calibration(method, share, wanted, knots=_isotonic(scores, truth))
    slope, intercept = _logistic(scores, truth)
    return Calibration(method, share, wanted, slope, intercept)


def out_of_fold(
    similarities: ArrayLike, same: ArrayLike, folds: ArrayLike, method: Method = "logistic"
) -> NDArray[np.float64]:
    """Returns the probability of each pair by a calibration fitted on the other folds alone.

    Each holds for the share of same pairs in the other folds.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.
        folds: (pairs,) integer fold ids, at least two different ones.
        method: as in `fit_calibration`.

    Raises:
        DataError: as `fit_calibration` (the pairs of all folds but one must be of both kinds), or
            on fold ids that are not integers of two folds or more.

    Example:

    >>> scores, same = [0.9, 0.1, 0.8, 0.3], [1, 0, 1, 0]
    >>> out_of_fold(scores, same, [0, 0, 1, 1], method="isotonic").tolist()
    [1.0, 0.0, 0.875, 0.25]
    """
    metrics.roc(similarities, same)
    scores, truth, fold = np.asarray(similarities, np.float64), np.asarray(same), np.asarray(folds)
    ids = np.unique(fold)
    if fold.shape != truth.shape or not np.issubdtype(fold.dtype, np.integer) or ids.size < 2:
        raise DataError(
            f"Expected `folds` as ({truth.size},) integers of at least two folds. Received: shape "
            f"{fold.shape}, dtype {fold.dtype}, {ids.size} folds. Number the folds 0, 1, 2, ..."
        )
    probabilities = np.empty(scores.size)
    for each in ids:
        own = fold == each
        fitted = fit_calibration(scores[~own], truth[~own], method)
        probabilities[own] = fitted.probability(scores[own])
    return probabilities


def reliability(probabilities: ArrayLike, same: ArrayLike, bins: int = _BINS) -> Reliability:
    """Compares probabilities with what came true.

    Args:
        probabilities: (pairs,) from 0 to 1, of pairs that the calibration was not fitted on.
        same: (pairs,) booleans, of pairs that hold the share of same pairs that they are for.
        bins: of equal width, for the expected calibration error.

    Raises:
        DataError: on shapes that do not fit, a probability outside [0, 1], or no bin.

    Example:

    >>> found = reliability([0.9, 0.9, 0.2, 0.2], [1, 1, 0, 1], bins=5)
    >>> round(found.calibration_error, 3), round(found.brier, 3), round(found.log_loss, 3)
    (0.2, 0.175, 0.511)

    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, equation 3.
    """
    given, truth = np.asarray(probabilities, np.float64), metrics.booleans(same)
    if given.ndim != 1 or truth.shape != given.shape or not given.size or bins < 1:
        raise DataError(
            "Expected `probabilities` and `same` (pairs,), and at least one bin. Received: shapes "
            f"{given.shape} and {truth.shape}, bins={bins}. Pass one of each for a pair."
        )
    if not ((given >= 0) & (given <= 1)).all():
        raise DataError(
            "Expected probabilities from 0 to 1. Received: from "
            f"{given.min():g} to {given.max():g}. Pass `calibration.probability(similarities)`."
        )
    place = np.minimum((given * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, given, bins) / counts
        shares = np.bincount(place, truth, bins) / counts
    of_truth = np.clip(np.where(truth, given, 1 - given), 2**-52, 1 - 2**-52)
    return Reliability(
        calibration_error=float(np.nansum(counts * np.abs(means - shares)) / given.size),
        brier=float(np.mean((given - truth) ** 2)),
        log_loss=float(-np.mean(np.log(of_truth))),
        counts=counts,
        probabilities=means,
        shares=shares,
    )


def _logistic(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the most likely log odds, under Platt's targets and slope >= 0."""
    linear_model = _sklearn("linear_model")
    positive, negative = np.count_nonzero(same), np.count_nonzero(~same)
    target = np.where(same, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, width = scores.mean(), scores.std()
    if width > 0:
        # A target between 0 and 1 is a pair that counts as same in part, as different in part.
        model = linear_model.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
        model.fit(
            np.tile((scores - centre) / width, 2)[:, None],
            np.repeat([1, 0], scores.size),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope = float(model.coef_[0, 0] / width)
        if slope > 0:
            return slope, float(model.intercept_[0] - slope * centre)
    return 0.0, math.log(_odds(float(target.mean())))


def _isotonic(
    scores: NDArray[np.float64], same: NDArray[np.bool_]
) -> tuple[tuple[float, float], ...]:
    """The knots of the rising map of least squared error."""
    model = _sklearn("isotonic").IsotonicRegression(y_min=0, y_max=1).fit(scores, same)
    return tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True))


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise DataError(
            f"A calibration is fitted by scikit-learn, which cannot be imported ({error}). "
            'Run `pip install "spherekeras[calibration]"`. A fitted one needs NumPy alone.'
        ) from error


def _odds(probability: float) -> float:
    return probability / (1 - probability)


def _checked_prior(prior: float) -> float:
    if not 0 < prior < 1:
        raise DataError(
            "Expected `prior`, the share of same pairs, in (0, 1). Received: "
            f"{prior}. Pass 0.001 where one pair of a thousand is one person's."
        )
    return float(prior)


def _shown(values: object) -> str:
    text = repr(values)
    return text if len(text) <= 200 else f"{text[:197]}..."
