"""What do channels without towers share: checked options, the fit, the state for a bundle?"""

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
from shortlist.data.dataset import Split
from shortlist.data.training_data import Fit, TrainingData
from shortlist.sections.base import Section
from shortlist.training.lesson import Lesson
from shortlist.training.progress import Progress

logger = logging.getLogger("shortlist.channels")

Chosen = TypeVar("Chosen", bound=Section)


class Counting(Answering, Generic[Chosen]):
    """A retriever fitted without gradients: by counting, a closed form or a few factorisations.

    Its options are the fields of `options_type`, the keys of a recipe's [channels.NAME] table.
    """

    options_type: ClassVar[type[Section]]

    reads_log: ClassVar[bool] = True
    """True if answers need the log; False if the learned tensors and a history are enough."""

    data: TrainingData
    options: Chosen

    def __init__(self, options: Chosen | None = None, *, device: str = "cpu", **given: Any) -> None:
        self.options = self.options_of(options, given)
        self.device = on_cpu(device, type(self).__name__)

    @classmethod
    def options_of(cls, options: Chosen | None, given: Mapping[str, Any]) -> Chosen:
        """Return the options with `given` overriding them, checked. Errors: ModelError."""
        checked: Any = checked_options(cls.options_type, options, given, cls.__name__)
        return checked  # type: ignore[no-any-return]

    def fit(self, split: Split, fit: Fit = "train", *, progress: Progress | None = None) -> Self:
        """Learn from the rows that `fit` names; no hyperparameter is chosen on validation rows."""
        check_split(split)
        data = split.training_data(fit)
        work = f"fitting {type(self).__name__} on {len(data.training_log):,} events"
        logger.info("%s", work)
        if progress is not None:
            progress.stage(work)
        return self.fit_data(data)

    def refit(self, split: Split, fit: Fit, *, progress: Progress | None = None) -> Self:
        """Learn again, from the rows that `fit` names."""
        return self.fit(split, fit, progress=progress)

    def fit_data(self, data: TrainingData) -> Self:
        """Learn from the training rows of data that was prepared before."""
        self._take(data)
        self.learn()
        return self

    @abstractmethod
    def learn(self) -> None:
        """Compute what answers need from `self.data.training_log`."""

    @property
    def weighs(self) -> bool:
        """True if the weights of the events of a history count: values = 'explicit'."""
        return getattr(self.options, "values", None) == "explicit"

    def candidate_rows(self) -> NDArray[np.int64]:
        """Return the item rows that can be recommended, [C] int64."""
        return self.data.candidates(with_features=False)

    def strangers(self, block: RowQueries) -> Tensor:
        """Return True for queries without a trained item in their history, bool [B]."""
        known = (block.history.values > 0) & (block.history.values <= self.data.items.trained)
        owners = block.history.owners()[known]
        return torch.bincount(owners, minlength=len(block.users)) == 0

    def observe(self, data: TrainingData) -> Self:
        """Return this channel with new events: `data` is the old data plus these.

        By default that is a whole fit. Subclasses override `_take_events`: some do less work for
        the same result, others keep the learned values and change the histories only.
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
        """Return this channel on other data.

        By default that is `_take_events`. A subclass whose `_take_events` keeps learned values
        overrides `_go_on` to learn them again.
        """
        check_data(data)
        new = copy(self)
        new._go_on(data)
        return new

    def _go_on(self, data: TrainingData) -> None:
        self._take_events(data)

    def state(self) -> State:
        """Return what a bundle stores beside the data: the options and the learned tensors."""
        return {"options": self.options.model_dump(mode="json")}, {"learned": self.learned()}

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """Return what `learn` computed as named tensors, except what the data gives cheaply."""

    @abstractmethod
    def set_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `learned` returned; `self.data` is set, and answers are bit-equal."""

    @classmethod
    def from_state(
        cls,
        data: TrainingData,
        settings: Mapping[str, Any],
        states: Mapping[str, Mapping[str, Tensor]],
        *,
        device: str = "cpu",
    ) -> Self:
        """Return the retriever that `state` came from; its answers are bit-equal."""
        options: Any = cls.options_type.model_validate(settings["options"])
        retriever = cls(options, device=device)
        retriever._take(data)
        retriever.set_learned(states["learned"])
        return retriever

    def _take(self, data: TrainingData) -> None:
        self.data = data
        self.popular = Popular().fit_data(data)
