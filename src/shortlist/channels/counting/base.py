"""What do the channels without towers share? Options checked, one fit, what a bundle keeps."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.answering import Answering
from shortlist.asking.capabilities import State
from shortlist.asking.rows import RowQueries
from shortlist.asking.unfitted import check_data, check_split
from shortlist.channels.counting.popular import Popular
from shortlist.channels.options import checked_options, on_cpu
from shortlist.data.dataset import Fit, Split, TrainingData
from shortlist.sections.base import Section
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

logger = logging.getLogger("shortlist.channels")

Chosen = TypeVar("Chosen", bound=Section)


class Counting(Answering, Generic[Chosen]):
    """A retriever fitted in one pass over the log: counts, closed forms, a few factorisations.

    Its options are the fields of `options_type`, as a recipe's [channels.NAME] table has them.
    """

    options_type: ClassVar[type[Section]]

    reads_log: ClassVar[bool] = True
    """Whether it answers from the log itself, and not from what it learned and a history."""

    data: TrainingData
    options: Chosen

    def __init__(self, options: Chosen | None = None, *, device: str = "cpu", **given: Any) -> None:
        self.options = self.options_of(options, given)
        self.device = on_cpu(device, type(self).__name__)

    @classmethod
    def options_of(cls, options: Chosen | None, given: Mapping[str, Any]) -> Chosen:
        """Return the options with `given` put over them, checked. Errors: ModelError."""
        checked: Any = checked_options(cls.options_type, options, given, cls.__name__)
        return checked  # type: ignore[no-any-return]

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Learn from the rows `fit` names; there is nothing for validation rows to choose."""
        check_split(split)
        data = split.training_data(fit)
        work = f"fitting {type(self).__name__} on {len(data.training_log):,} events"
        logger.info("%s", work)
        if progress is not None:
            progress.stage(work)
        return self.fit_data(data)

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Learn again from the rows `fit` names."""
        return self.fit(split, fit, progress=progress)

    def fit_data(self, data: TrainingData) -> Self:
        """Learn from the training rows of data made ready before."""
        self._take(data)
        self.learn()
        return self

    @abstractmethod
    def learn(self) -> None:
        """Make what is to be known of `self.data.training_log`."""

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended at all."""
        return self.data.candidates(with_features=False)

    def strangers(self, block: RowQueries) -> Tensor:
        """True for queries of which nothing is known, [B]: no trained item in their history."""
        known = (block.history.values > 0) & (block.history.values <= self.data.items.trained)
        owners = block.history.owners()[known]
        return torch.bincount(owners, minlength=len(block.users)) == 0

    def observe(self, data: TrainingData) -> Self:
        """Return this channel with new events: `data` is the old data with them.

        Channels that can do less than a whole fit override `_take_events`, and give what a whole
        fit would.
        """
        check_data(data)
        new = copy(self)
        new._take_events(data)
        return new

    def _take_events(self, data: TrainingData) -> None:
        self.fit_data(data)

    def refreshed(
        self,
        data: TrainingData,
        lesson: Lesson,  # noqa: ARG002 - of towers
        *,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Self:
        """Return this channel on other data: what a whole fit would give, at less cost if it can.

        Where `_take_events` keeps what was fitted, a subclass says in `_go_on` what to do instead.
        """
        check_data(data)
        new = copy(self)
        new._go_on(data)
        return new

    def _go_on(self, data: TrainingData) -> None:
        self._take_events(data)

    def state(self) -> State:
        """Return what a bundle keeps beside the data: the options and what was learned."""
        return {"options": self.options.model_dump(mode="json")}, {"learned": self.learned()}

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """What `learn` made, as named tensors; what the data gives at no cost is left out."""

    @abstractmethod
    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `learned` gave, `self.data` being there: equal answers, bit for bit."""

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the retriever that `state` came from: it gives the same answers, bit for bit."""
        options: Any = cls.options_type.model_validate(settings["options"])
        retriever = cls(options, device=device)
        retriever._take(data)
        retriever.set_learned(states["learned"])
        return retriever

    def _take(self, data: TrainingData) -> None:
        self.data = data
        self.popular = Popular().fit_data(data)
