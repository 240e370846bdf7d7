"""What is a finding, what is a check, and what can a check read?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch

from shortlist.asking.capabilities import Channel
from shortlist.channels.learned.base import Learner
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.config import Model, Recipe, Training
from shortlist.data.batches import Batch, PairBatches
from shortlist.data.dataset import Dataset, Split
from shortlist.data.ragged import Ragged
from shortlist.data.training_data import TrainingData
from shortlist.doctor.watch import TrainingWatch
from shortlist.errors import ShortlistError
from shortlist.sampling.base import Negatives, NegativeSampler, own_slots
from shortlist.training.auto import Facts, settle
from shortlist.training.fitting import Epoch
from shortlist.training.objective import Objective
from shortlist.training.precision import multiplies_bfloat16
from shortlist.training.presets import objective_of, sampler_of

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[str, ...] = get_args(Severity)

SEED = 20_240
"""The seed of every probe, so that repeated examinations give the same findings."""


@dataclass(frozen=True)
class Finding:
    """One mistake that was found.

    code: a stable name, for machines.
    severity: an error makes the result wrong or worthless, a warning probably costs quality, and an
        info is something that a reader of the figures should know.
    mistake: what is wrong, in general.
    evidence: the numbers of this case.
    cure: what to do.
    """

    code: str
    severity: Severity
    mistake: str
    evidence: str
    cure: str

    def to_dict(self) -> dict[str, str]:
        """Return the finding as one JSON-safe object."""
        return asdict(self)


class Subject:
    """What is examined. `given` names the parts that are present; a check may read no others.

    model, training: the recipe's sections of these names.
    data: the log in rows.
    dataset: the log as it was read, before any split.
    columns: how many distinct values each column has in the head of the log.
    retriever: a trained TwoTower.
    towers: present if there are user and item towers to probe, trained or not.
    report: what `evaluate` measured, as a dict.
    epochs: the epochs that training reported.
    failure: the error that ended training, or that kept the data from being read.
    """

    model: Model
    training: Training
    data: TrainingData
    dataset: Dataset
    columns: Mapping[str, int]
    retriever: TwoTower
    report: Mapping[str, Any]
    epochs: Sequence[Epoch]
    failure: ShortlistError

    def __init__(
        self,
        *,
        model: Model | None = None,
        training: Training | None = None,
        data: TrainingData | None = None,
        dataset: Dataset | None = None,
        columns: Mapping[str, int] | None = None,
        retriever: TwoTower | None = None,
        report: Mapping[str, Any] | None = None,
        epochs: Sequence[Epoch] = (),
        failure: ShortlistError | None = None,
        tie: str = "hash",
        exclude_seen: bool = True,
    ) -> None:
        parts = {
            "model": model,
            "training": training,
            "data": data,
            "dataset": dataset,
            "columns": columns,
            "retriever": retriever,
            "report": report,
            "epochs": tuple(epochs) or None,
            "failure": failure,
        }
        present = {name: part for name, part in parts.items() if part is not None}
        for name, part in present.items():
            setattr(self, name, part)
        self.given = set(present)
        if "data" in present and training is not None and training.positives == "u2i":
            self.given.add("towers")
        self.tie = tie
        self.exclude_seen = exclude_seen

    @classmethod
    def of_recipe(
        cls,
        recipe: Recipe,
        split: Split | None = None,
        watch: TrainingWatch | None = None,
        failure: ShortlistError | None = None,
    ) -> "Subject":
        """Return a recipe before training, with its data if they could be read.

        watch: the epochs that training reported before it failed.
        """
        data = None if split is None else split.training_data("train")
        positives = 0 if data is None else len(data.training_targets)
        facts = None if data is None else Facts.of(data, positives)
        model, training, _ = settle(recipe.model, recipe.training, facts)
        return cls(
            model=model if not recipe.channels else None,
            training=training if not recipe.channels else None,
            data=data,
            dataset=None if split is None else split.dataset,
            epochs=watch.epochs if watch else (),
            failure=failure,
            tie=recipe.data.tie,
            exclude_seen=recipe.evaluation.exclude_seen,
        )

    @classmethod
    def of_log(
        cls,
        dataset: Dataset,
        columns: Mapping[str, int],
        data: TrainingData | None = None,
        failure: ShortlistError | None = None,
    ) -> "Subject":
        """Return a log without a model. failure: the error if the log cannot be split (no data)."""
        return cls(data=data, dataset=dataset, columns=columns, failure=failure)

    @classmethod
    def of_retriever(
        cls,
        retriever: Channel,
        report: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> "Subject":
        """Return a fitted retriever, with its report and recipe as a bundle keeps them.

        For a retriever without its log only the report and the settings are examined.
        """
        sections: Any = recipe or {}
        learned = retriever if isinstance(retriever, Learner) else None
        kept = retriever.data.counts is None
        return cls(
            model=None if learned is None else learned.model_section,
            training=None if learned is None else learned.training_section,
            data=retriever.data if kept else None,
            retriever=retriever if kept and isinstance(retriever, TwoTower) else None,
            report=report,
            epochs=() if learned is None else learned.epochs_run,
            tie=sections.get("data", {}).get("tie", "hash"),
            exclude_seen=sections.get("evaluation", {}).get("exclude_seen", True),
        )

    @cached_property
    def machine_has_bfloat16(self) -> bool:
        """Whether this machine's CPU has arithmetic for bfloat16, or there is a GPU."""
        return multiplies_bfloat16("cpu") or torch.cuda.is_available()

    @cached_property
    def objective(self) -> Objective:
        """The objective as training builds it, in evaluation mode.

        mask_known is off, because the rows of the probes have no user.
        """
        objective = objective_of(self.training.model_copy(update={"mask_known": False}))
        objective.eval()
        return objective

    @cached_property
    def sampler(self) -> NegativeSampler:
        """The sampler as training builds it."""
        return sampler_of(self.training, torch.from_numpy(self.data.item_counts))

    @cached_property
    def batches(self) -> PairBatches:
        """The batches as training makes them."""
        return PairBatches(
            self.data.training_log,
            ordered=self.data.ordered,
            batch_size=self.training.batch_size,
            history_length=self.model.history_length,
        )

    @cached_property
    def batch(self) -> Batch:
        """One batch of the size that training uses."""
        return self.random_batch(generator())

    @cached_property
    def negatives(self) -> Negatives:
        """The negatives drawn for `batch`."""
        return self.sampler.sample(self.batch, generator())

    @cached_property
    def negatives_a_row(self) -> int:
        """The number of negatives of a row: the pool without the row's own slot."""
        own = own_slots(self.negatives, len(self.batch.positive)).sum(dim=1)
        return int(self.negatives.ids.shape[-1] - own.float().mean().round())

    @cached_property
    def encoder(self) -> TwoTower:
        """The trained retriever, or before training one with new towers, for probes."""
        if "retriever" in self.given:
            return self.retriever
        fresh = TwoTower(model=self.model, training=self.training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            fresh.set_data(self.data)
        return fresh

    def random_batch(self, random: torch.Generator) -> Batch:
        """Pick random training events, as many as a batch of training has, without histories."""
        log = self.data.training_targets
        rows = -(-len(log) // len(self.batches))
        events = torch.randint(len(log), (rows,), generator=random)
        nothing = Ragged(
            torch.zeros(0, dtype=torch.int64), torch.zeros(rows + 1, dtype=torch.int64)
        )
        return Batch(
            users=torch.from_numpy(log.user)[events].long(),
            positive=torch.from_numpy(log.item)[events].long(),
            weight=torch.ones(rows),
            history=nothing,
        )


Look = Callable[[Subject], str | None]


@dataclass(frozen=True)
class Check:
    """Looks for one mistake.

    needs: the parts of a subject that it reads; it is skipped if one is absent.
    look: returns the evidence, or None if there is no such mistake.
    """

    code: str
    severity: Severity
    mistake: str
    cure: str
    needs: tuple[str, ...]
    look: Look

    def __call__(self, subject: Subject) -> Finding | None:
        """Return the finding, or None."""
        if not subject.given.issuperset(self.needs):
            return None
        evidence = self.look(subject)
        if evidence is None:
            return None
        return Finding(self.code, self.severity, self.mistake, evidence, self.cure)


def check(code: str, severity: Severity, *needs: str, cure: str) -> Callable[[Look], Check]:
    """Make a Check of the decorated function; its docstring is the mistake that users read."""

    def made(look: Look) -> Check:
        mistake = " ".join((look.__doc__ or "").split())
        return Check(code, severity, mistake, cure, needs, look)

    return made


def generator() -> torch.Generator:
    """Return a new seeded generator for a probe."""
    return torch.Generator().manual_seed(SEED)
