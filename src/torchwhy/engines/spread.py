"""How far a mean of draws may be off: standard errors that hold where the draws are few, or few of them decide."""

from __future__ import annotations

import torch
from torch import Tensor

USUAL = 4  # draws for which the mean variance of all features stands in that of one
RARE = 6  # the same, of draws that make up the spread


def student(freedom: float, outside: float = 0.05) -> float:
    """Half the width of a 95 % interval, or of one that misses with chance ``outside``, in standard errors.

    >>> round(student(10), 2), round(student(1000), 2)
    (2.23, 1.96)
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - outside / 2))


def error_of_mean(samples: Tensor) -> Tensor:
    """The standard error (M, B) of the mean of independent samples (n, M, B), as `error_of_sum` has it."""
    freedom = len(samples) - 1
    away = (samples - samples.mean(0)).double() ** 2
    own = away.sum(0) / (freedom * len(samples))
    held = own.new_full((len(own),), freedom)
    each = zip(own.T, away.sum(1).T, strict=True)
    return torch.stack([error_of_sum(variances, held, squares, freedom) for variances, squares in each], 1)


def error_of_sum(own: Tensor, held: Tensor, squares: Tensor, freedom: int) -> Tensor:
    """Standard errors (M,) from variances (M,), each estimated from ``held`` draws, drawn towards their mean.

    The squares (n,), of which the variances are sums, say by how few draws the spread is made up.
    """
    mean, made = own.mean(), _effective(squares)
    usual = torch.maximum((held * own + USUAL * mean) / (held + USUAL), (made * own + RARE * mean) / (made + RARE))
    return usual.sqrt() * widened(squares, freedom)


def _effective(squares: Tensor) -> float:
    """How many draws of like size would make up a spread as uneven as these squares (n,)."""
    if not squares.any():
        return 0.0
    shares = squares / squares.max()
    return float(shares.sum() ** 2 / (shares**2).sum())


def widened(squares: Tensor, freedom: int) -> float:
    """By how much longer a 95 % interval is than with ``freedom``, from the squares (n,) that a variance is the sum of.

    Their kurtosis says how many degrees of freedom it has: 2 n / (kurtosis - 1), by Satterthwaite.
    """
    if not squares.any():
        return 1.0
    kurtosis = (len(squares) + 2) / _effective(squares)
    known = max(2.0, 2 * len(squares) / max(kurtosis - 1, 1e-6))
    return student(min(freedom, known)) / student(freedom)
