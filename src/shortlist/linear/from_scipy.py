"""Which functions of scipy are used? All imports of scipy are here, and run at the first call.

The import takes a third of a second, and a bundle of towers answers without it.
"""

from typing import Any


def csr_array(*arguments: Any, **options: Any) -> Any:
    """Return a sparse matrix by rows, see `scipy.sparse.csr_array`."""
    from scipy.sparse import csr_array as made

    return made(*arguments, **options)


def diags_array(*arguments: Any, **options: Any) -> Any:
    """Return a sparse diagonal matrix, see `scipy.sparse.diags_array`."""
    from scipy.sparse import diags_array as made

    return made(*arguments, **options)


def get_lapack_funcs(*arguments: Any) -> Any:
    """Return LAPACK routines for the dtype of arrays, see `scipy.linalg.get_lapack_funcs`."""
    from scipy.linalg import get_lapack_funcs as found

    return found(*arguments)


def isotonic_regression(*arguments: Any, **options: Any) -> Any:
    """Return the nearest monotonic sequence, see `scipy.optimize.isotonic_regression`."""
    from scipy.optimize import isotonic_regression as fitted

    return fitted(*arguments, **options)


def stdtr(freedom: float, value: float) -> float:
    """Return the distribution function of Student's t, P(T <= value), see `scipy.special.stdtr`."""
    from scipy.special import stdtr as found

    return float(found(freedom, value))


def stdtrit(freedom: float, share: float) -> float:
    """Return the quantile of Student's t, the inverse of `stdtr`, see `scipy.special.stdtrit`."""
    from scipy.special import stdtrit as found

    return float(found(freedom, share))
