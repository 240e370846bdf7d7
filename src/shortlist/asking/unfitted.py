"""Which errors does a retriever raise before it is fitted, or for data of a wrong type?"""

from typing import TYPE_CHECKING, Any

from shortlist.data.dataset import Dataset, Split
from shortlist.data.training_data import TrainingData
from shortlist.errors import DataError, NotFittedError


class FittedFirst:
    """Makes every method raise NotFittedError before `fit`, which sets `data`.

    A missing attribute of a fitted retriever is an AttributeError, as usual.
    """

    if not TYPE_CHECKING:  # otherwise the type checker accepts any attribute

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            if "data" in self.__dict__ or name.startswith("__"):
                raise AttributeError(f"'{kind}' object has no attribute '{name}'")
            raise NotFittedError(
                f"this {kind} is not fitted yet: call fit(split) first, or load a bundle"
            )


def check_split(split: Any) -> None:
    """Check that `fit` was given a split. Errors: DataError, which says how to make one."""
    if isinstance(split, Split):
        return
    made = "Dataset.load(interactions, schema=Schema(...)).split()"
    if isinstance(split, Dataset):
        raise DataError("fit takes a split, got a Dataset: write fit(dataset.split())")
    raise DataError(f"fit takes a split, got a {type(split).__name__}: make one with {made}")


def check_data(data: Any) -> None:
    """Check that `observe` was given training data. Errors: DataError.

    The data with new events comes from `data.updates.with_events`.
    """
    if not isinstance(data, TrainingData):
        raise DataError(
            f"observe takes training data with the new events, got a {type(data).__name__}: write "
            "observe(with_events(retriever.data, events).data); with_events is in "
            "shortlist.data.updates"
        )
