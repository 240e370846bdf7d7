"""What does a retriever say that is asked before it was fitted, or fitted on what is no split?"""

from typing import TYPE_CHECKING, Any

from shortlist.data.dataset import Dataset, Split
from shortlist.errors import DataError, NotFittedError


class FittedFirst:
    """What a retriever lacks before `fit` is a NotFittedError that says so, in every method.

    A fitted retriever has `data`; what is missing of it is an AttributeError, as everywhere.
    """

    if not TYPE_CHECKING:  # or the type checker would believe in attributes that nothing has

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            if "data" in self.__dict__ or name.startswith("__"):
                raise AttributeError(f"'{kind}' object has no attribute '{name}'")
            raise NotFittedError(
                f"this {kind} is not fitted yet: call fit(split) first, or load a bundle"
            )


def check_split(split: Any) -> None:
    """Refuse to fit on anything but a split, and say how one is made. Errors: DataError."""
    if isinstance(split, Split):
        return
    made = "Dataset.load(interactions, schema=Schema(...)).split()"
    if isinstance(split, Dataset):
        raise DataError("fit takes a split, got a Dataset: write fit(dataset.split())")
    raise DataError(f"fit takes a split, got a {type(split).__name__}: make one with {made}")
