"""How uncertain is a figure, or the difference of two models, because users vary?"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import DataError, ModelError
from shortlist.linear.from_scipy import stdtr

WEIGHTS = 4_000_000  # Resampling weights held at a time: 32 MB.

FEW = 20
"""Fewer users than this have no interval and no verdict: resampling so few says little."""


class Interval(NamedTuple):
    """A mean over users, and the low and high end of its confidence interval.

    mean: the mean.
    low, high: the ends; None if a report measured fewer than FEW users. They are equal if all users
    have the same figure. Resampling equal figures gives no interval, but not because the mean is
    certain, so that `ends` and all outputs of a report have none either.
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def ends(self) -> tuple[float, float] | None:
        """(low, high); None for fewer than FEW users, and if all users have the same figure."""
        if self.low is None or self.high is None or self.low == self.high:
            return None
        return self.low, self.high

    @property
    def half(self) -> str:
        """Half of the interval as text, after "±"; "" without an interval."""
        return "" if self.ends is None else f"± {(self.ends[1] - self.ends[0]) / 2:.4f}"

    def between(self, sign: str = "") -> str:
        """Return the ends as text, such as "[0.1200, 0.2500]"; "" without an interval.

        sign: "+" writes the sign of positive numbers.
        """
        return "" if self.ends is None else "[{:{s}.4f}, {:{s}.4f}]".format(*self.ends, s=sign)

    def side(self, of: float = 0.0) -> int:
        """Return 1 if the whole interval is above a value, -1 if it is below, otherwise 0.

        Fewer than FEW users decide nothing; a figure that all users share decides by itself.
        """
        if self.low is None or self.high is None:
            return 0
        return (self.low > of) - (self.high < of)

    def to_dict(self) -> dict[str, float | None]:
        """Return mean, low and high for JSON; low and high are None without an interval."""
        low, high = self.ends or (None, None)
        return {"mean": self.mean, "low": low, "high": high}

    @classmethod
    def of_dict(cls, figure: Mapping[str, float | None], users: int) -> "Interval":
        """Return the figure that `to_dict` wrote, for a mean over this number of users.

        Figures of fewer than FEW users lose the interval that older versions wrote.
        """
        told = (figure["mean"], figure["low"], figure["high"])
        mean, low, high = (None if end is None else float(end) for end in told)
        if mean is None:
            raise ValueError("a figure has no mean")
        if users < FEW:
            return cls(mean, None, None)
        return cls(mean, mean if low is None else low, mean if high is None else high)


def bootstrap_interval(
    values: NDArray[np.float64], seed: int, samples: int = 1000, level: float = 0.95
) -> Interval:
    """Return the mean over users with its percentile bootstrap interval.

    Users are resampled (Efron & Tibshirani 1993; for retrieval, Sakai 2006). The interval covers
    other users from the same population, not other training seeds. It needs some tens of users.

    values: one figure per user, [U].
    seed: equal seeds give equal resamples.
    samples: number of resamples.
    level: confidence level.
    Errors: DataError without users or with a value that is not finite.

    >>> bootstrap_interval(np.array([0.0, 1.0] * 200), seed=1)
    Interval(mean=0.5, low=0.45, high=0.5475)
    """
    return bootstrap_intervals({"values": values}, seed, samples, level)["values"]


def paired_interval(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    seed: int,
    samples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return the mean of a - b over users with its interval; a is better if it is all above 0.

    It is narrower than two separate intervals, because the difficulty of a user cancels out.

    a, b: the same metric of two models for the same users in the same order, [U].
    """
    if np.shape(a) != np.shape(b):
        raise DataError(
            f"two models need figures for the same users, got {np.shape(a)} and {np.shape(b)}"
        )
    return bootstrap_interval(np.asarray(a) - np.asarray(b), seed, samples, level)


def paired_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the paired t-test (Student 1908).

    For retrieval metrics it agrees with resampling tests, which cannot give very small p-values
    (Smucker, Allan & Carterette 2007). It needs some tens of users.

    differences: difference of two models for each user, [U]. With fewer than two users p is 1.
    Errors: DataError for a value that is not finite.

    >>> round(paired_p(np.array([1.0, 1.0, 0.0, 1.0])), 4)
    0.0577
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError("differences must hold a finite figure for each user")
    if len(values) < 2 or not values.any():
        return 1.0
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    if error == 0:
        return 0.0
    return 2 * stdtr(len(values) - 1, -abs(float(values.mean())) / error)


def p_text(value: float | None) -> str:
    """Return a p-value as text; a tiny one is not shown as 0, and "–" stands for none."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def holm(chances: Sequence[float]) -> list[float]:
    """Return the p-values of several comparisons, corrected for their number (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; each is at least the one
    before and at most 1. However the comparisons depend on each other, the probability that any
    corrected p of a true null hypothesis is below .05 is at most .05.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(chances, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.arange(len(p), 0, -1) * p[order], 1.0)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps) if len(p) else steps
    return [float(each) for each in corrected]


def bootstrap_intervals(
    columns: Mapping[str, NDArray[np.float64]], seed: int, samples: int = 1000, level: float = 0.95
) -> dict[str, Interval]:
    """Return `bootstrap_interval` of several columns [U] of the same users, on the same resamples.

    Drawing is most of the cost, so this is much faster than one call per column. The results are
    equal up to rounding.
    """
    if samples < 1 or not 0 < level < 1:
        raise ModelError(
            f"samples must be >= 1 and level between 0 and 1, got {samples} and {level}"
        )
    for name, values in columns.items():
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise DataError(
                f"{name} must hold a finite figure for each user, and at least one user: "
                "leave out users without relevant items"
            )
    if len({len(values) for values in columns.values()}) > 1:
        raise DataError(f"the figures must be of the same users, got {_lengths(columns)}")
    if not columns:
        return {}
    figures = np.stack(list(columns.values()), axis=1).astype(np.float64)  # [U, figures]
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled_means(figures, seed, samples), [tail, 1 - tail], axis=0)
    ends = zip(figures.mean(axis=0), low, high, strict=True)
    return {
        name: Interval(*map(float, interval)) for name, interval in zip(columns, ends, strict=True)
    }


def user_intervals(columns: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Interval]:
    """Return what a report says of figures [U]: `bootstrap_intervals`, from FEW users on.

    With fewer users each figure is the mean alone.
    """
    if not columns or len(next(iter(columns.values()))) >= FEW:
        return bootstrap_intervals(columns, seed)
    return {name: Interval(float(values.mean()), None, None) for name, values in columns.items()}


def _resampled_means(figures: NDArray[np.float64], seed: int, samples: int) -> NDArray[np.float64]:
    """Return the means of `samples` draws of U users with replacement, [samples, figures]."""
    users = len(figures)
    generator = np.random.default_rng(seed)
    block = max(1, WEIGHTS // users)
    means = []
    for start in range(0, samples, block):
        # Weights count how often each user was drawn: one matrix product serves all columns.
        weights = np.empty((min(block, samples - start), users))
        for row in weights:
            drawn = generator.integers(users, size=users, dtype=np.int32)
            row[:] = np.bincount(drawn, minlength=users)
        means.append(weights @ figures / users)
    return np.concatenate(means)


def _lengths(columns: Mapping[str, NDArray[np.float64]]) -> str:
    """Return the length of each column, for a message."""
    return ", ".join(f"{name} [{len(values)}]" for name, values in columns.items())
