"""What is used of scipy, which is imported when it is first called. The one door to it.

It takes a third of a second to import, and a bundle of towers answers without it.
"""

from typing import Any


def csr_array(*arguments: Any, **options: Any) -> Any:
    """A sparse matrix by rows, as `scipy.sparse.csr_array` makes it."""
    from scipy.sparse import csr_array as made

    return made(*arguments, **options)


def diags_array(*arguments: Any, **options: Any) -> Any:
    """A sparse diagonal matrix, as `scipy.sparse.diags_array` makes it."""
    from scipy.sparse import diags_array as made

    return made(*arguments, **options)


def get_lapack_funcs(*arguments: Any) -> Any:
    """Routines of LAPACK for the dtype of arrays, from `scipy.linalg`."""
    from scipy.linalg import get_lapack_funcs as found

    return found(*arguments)


def isotonic_regression(*arguments: Any, **options: Any) -> Any:
    """The monotonous sequence nearest to values, from `scipy.optimize`."""
    from scipy.optimize import isotonic_regression as fitted

    return fitted(*arguments, **options)


def stdtr(freedom: float, value: float) -> float:
    """The chance that Student's t with so many degrees of freedom is at most a value."""
    from scipy.special import stdtr as found

    return float(found(freedom, value))
