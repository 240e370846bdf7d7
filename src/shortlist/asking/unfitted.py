"""What does a retriever say that is asked before it was fitted, or given what is no data for it?"""

from typing import TYPE_CHECKING, Any

from shortlist.data.dataset import Dataset, Split, TrainingData
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


def check_data(data: Any) -> None:
    """Refuse new events in any form but training data, and say how it is made. Errors: DataError.

    The events themselves go through `data.updates.with_events`.
    """
    if not isinstance(data, TrainingData):
        raise DataError(
            f"observe takes the data with the new events in it, got a {type(data).__name__}: write "
            "observe(with_events(retriever.data, events).data); with_events is in "
            "shortlist.data.updates"
        )
