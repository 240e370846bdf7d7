"""Hard negatives in training: a loss of their own beside the easy one, weighted and uncorrected."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from shortlist.config import Training
from shortlist.config.parts import given
from shortlist.data.batches import Batch
from shortlist.errors import ModelError
from shortlist.sampling.base import Negatives, Remembering, accidental_hits, known_items, own_slots
from shortlist.sampling.hard import build_hard, check_hard
from shortlist.sampling.hard.base import HardSource, HardWorld, PoolChoice, hard_slots, repeats
from shortlist.similarity import pair_score, score
from shortlist.training.checkpoint import part_of
from shortlist.training.objective import Objective

SHARE = 0.01
"""Hard negatives for each easy one of a row's pool: 100 easy to 1 hard (Huang et al. 2020)."""

WEIGHT = 0.1
"""What the hard term counts beside the easy one."""

OPTIONS = ("share", "weight", "known")
"""The keys of a [training] section that begin with hard_, beside those of the sources."""


@dataclass(frozen=True)
class HardTerm:
    """weight · loss(positive, h hard negatives), of the same loss and temperature as the easy term.

    What was selected by score has no known sampling probability, so nothing is corrected, and a
    loss that learns a bias has another one here. Each row gets share · M hard negatives, at least
    one, where the easy pool has M. A row without any costs 0.

    known: hard negatives may be other items the row's user is known to like. The row's own
    positive never is one; the held-out item is like any other.
    """

    source: PoolChoice | HardSource
    objective: Objective
    share: float = SHARE
    weight: float = WEIGHT
    known: bool = False

    def parameters(self) -> Iterator[nn.Parameter]:
        """What it learns: a bias where the loss asks for one, and the temperature both share."""
        return self.objective.parameters()

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """An epoch begins; encode: item rows [N] -> their vectors as they are now, [N, D]."""
        if not isinstance(self.source, PoolChoice):
            self.source.refresh(encode)

    def state_dict(self) -> dict[str, Tensor]:
        """What it has learned alone, and what its source remembers."""
        state = {f"objective.{key}": v for key, v in self.objective.state_dict().items()}
        state.pop("objective.log_scale", None)  # the easy term's
        if isinstance(self.source, Remembering):
            state |= {f"source.{key}": value for key, value in self.source.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.objective.load_state_dict(part_of(state, "objective"), strict=False)
        if isinstance(self.source, Remembering):
            self.source.load_state_dict(part_of(state, "source"))

    def draw(
        self, batch: Batch, queries: Tensor, pool: Negatives, generator: torch.Generator
    ) -> Negatives | None:
        """Return what has to be encoded beside the pool, [B, h]; None where that is nothing."""
        if isinstance(self.source, PoolChoice):
            return None
        if self.known:
            batch = replace(batch, known=None)
        return self.source.draw(batch, queries.detach(), self._count(pool), generator)

    def choose(
        self, batch: Batch, queries: Tensor, positives: Tensor, pool: Negatives, vectors: Tensor
    ) -> tuple[Negatives, Tensor]:
        """Pick from the encoded pool: hard negatives [B, h] and their vectors [B, h, D].

        vectors: those of pool.ids, [M, D] or [B, M, D].
        """
        assert isinstance(self.source, PoolChoice)
        with torch.no_grad():
            positive = pair_score(queries, positives, self.objective.similarity)
            gap = score(queries, vectors, self.objective.similarity) - positive.unsqueeze(1)
            gap = gap.masked_fill(self._kept_out(batch, pool), float("-inf"))
            columns, filled = self.source.choose(gap, self._count(pool))
        if pool.ids.dim() == 1:
            # Not vectors[columns]: with threads its gradient adds up in another order each time.
            wanted = vectors.index_select(0, columns.flatten()).view(*columns.shape, -1)
            return hard_slots(pool.ids[columns], filled, batch.positive), wanted
        wide = columns.unsqueeze(-1).expand(-1, -1, vectors.shape[-1])
        chosen = hard_slots(pool.ids.gather(1, columns), filled, batch.positive)
        return chosen, vectors.gather(1, wide)

    def loss(
        self,
        batch: Batch,
        queries: Tensor,
        positives: Tensor,
        hard: Negatives,
        vectors: Tensor,
        positive_log_q: Tensor,
    ) -> Tensor:
        """Return the weighted loss of each row, [B]; vectors: those of `hard`, [B, h, D].

        positive_log_q: for a loss that asks for the positive's rate; it corrects nothing here.
        """
        cost: Tensor = self.objective(
            queries,
            positives,
            vectors,
            positive_ids=batch.positive,
            positive_log_q=positive_log_q,
            negatives=hard,
        )
        some = (hard.source < 0).any(dim=1)
        return self.weight * cost.masked_fill(~some, 0.0)

    def _count(self, pool: Negatives) -> int:
        return max(1, round(self.share * pool.ids.shape[-1]))

    def _kept_out(self, batch: Batch, pool: Negatives) -> Tensor:
        """True where a slot of the pool cannot be a hard negative of the row, [B, M]."""
        kept_out = own_slots(pool, len(batch.positive)) | accidental_hits(pool, batch.positive)
        kept_out = kept_out | repeats(pool.ids)
        if not self.known:
            if batch.known is None:
                raise ModelError("hard negatives need the known positives of the batch")
            kept_out = kept_out | known_items(pool, batch.known, batch.positive)
        return kept_out


def check_hard_options(training: Training, objective: Objective) -> None:
    """Refuse hard negatives that cannot work, and hard_ options without any."""
    chosen = {option: getattr(training, f"hard_{option}") for option in OPTIONS}
    chosen |= given(training, "hard")
    if training.hard is None:
        for option, value in chosen.items():
            if value is not None:
                raise ModelError(
                    f"hard_{option} does nothing without hard: name a source, or leave it out"
                )
        return
    check_hard(training.hard, **chosen)
    _uncorrected(objective)


def needs_known(training: Training) -> bool:
    """Whether the batches of a section must bring each user's known positives."""
    return training.mask_known or (training.hard is not None and not training.hard_known)


def hard_term_of(training: Training, objective: Objective, world: HardWorld) -> HardTerm | None:
    """Build a section's hard term beside its objective; None where it names no source."""
    check_hard_options(training, objective)
    if training.hard is None:
        return None
    source = build_hard(training.hard, world, **given(training, "hard"))
    return HardTerm(
        source,
        _uncorrected(objective).to(world.candidates.device),
        share=SHARE if training.hard_share is None else training.hard_share,
        weight=WEIGHT if training.hard_weight is None else training.hard_weight,
        known=bool(training.hard_known),
    )


def _uncorrected(objective: Objective) -> Objective:
    """The same objective without correction, its temperature shared, hits always dropped."""
    try:
        plain = Objective(
            objective.loss,
            objective.similarity,
            temperature=objective.temperature,
            correct_sampling=False,
            mask_hits=True,
        )
    except ModelError as error:
        raise ModelError(
            f"hard negatives have no known sampling probability to correct by; {error}"
        ) from error
    plain.log_scale = objective.log_scale
    return plain
