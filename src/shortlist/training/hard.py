"""How are hard negatives trained? By a second loss term, weighted and without correction."""

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
"""Hard negatives per easy one: 1 hard to 100 easy (Huang et al. 2020)."""

WEIGHT = 0.1
"""Weight of the hard term; the easy one has weight 1."""

OPTIONS = ("share", "weight", "known")
"""The options hard_share, hard_weight and hard_known of [training], which every source has."""


@dataclass(frozen=True)
class HardTerm:
    """weight · loss(positive, h hard negatives), with the loss and temperature of the easy term.

    Negatives selected by score have no known sampling probability, so scores are not corrected. A
    loss that learns a bias learns a separate one here. A row's own positive is never drawn.
    Held-out items are not excluded: that would leak them. A row without hard negatives costs 0.

    source: where hard negatives come from.
    objective: loss, similarity and temperature.
    share: hard negatives per easy one: h = share · M for an easy pool of M, at least 1.
    weight: weight of the term.
    known: whether other known positives of the row's user can be hard negatives.
    """

    source: PoolChoice | HardSource
    objective: Objective
    share: float = SHARE
    weight: float = WEIGHT
    known: bool = False

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the learned parameters: a bias if the loss has one, and the shared temperature."""
        return self.objective.parameters()

    def refresh(self, encode: Callable[[Tensor], Tensor]) -> None:
        """Update the source at the start of an epoch.

        encode: item rows [N] -> current item vectors [N, D].
        """
        if not isinstance(self.source, PoolChoice):
            self.source.refresh(encode)

    def state_dict(self) -> dict[str, Tensor]:
        """Return its own parameters and the state of its source."""
        state = {f"objective.{key}": v for key, v in self.objective.state_dict().items()}
        state.pop("objective.log_scale", None)  # the easy term's
        if isinstance(self.source, Remembering):
            state |= {f"source.{key}": value for key, value in self.source.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        self.objective.load_state_dict(part_of(state, "objective"), strict=False)
        if isinstance(self.source, Remembering):
            self.source.load_state_dict(part_of(state, "source"))

    def draw(
        self, batch: Batch, queries: Tensor, pool: Negatives, generator: torch.Generator
    ) -> Negatives | None:
        """Draw hard negatives that have to be encoded, [B, h]; None if they come from the pool.

        queries: query vectors, [B, D] or [B, K, D].
        """
        if isinstance(self.source, PoolChoice):
            return None
        if self.known:
            batch = replace(batch, known=None)
        return self.source.draw(batch, queries.detach(), self._count(pool), generator)

    def choose(
        self, batch: Batch, queries: Tensor, positives: Tensor, pool: Negatives, vectors: Tensor
    ) -> tuple[Negatives, Tensor]:
        """Select hard negatives from the pool: return them, [B, h], and their vectors, [B, h, D].

        queries: [B, D] or [B, K, D].
        positives: vectors of the positives, [B, D].
        vectors: vectors of pool.ids, [M, D] or [B, M, D].
        """
        assert isinstance(self.source, PoolChoice)
        with torch.no_grad():
            positive = pair_score(queries, positives, self.objective.similarity)
            gap = score(queries, vectors, self.objective.similarity) - positive.unsqueeze(1)
            gap = gap.masked_fill(self._kept_out(batch, pool), float("-inf"))
            columns, filled = self.source.choose(gap, self._count(pool))
        if pool.ids.dim() == 1:
            # Not vectors[columns]: with threads, its gradient is summed in a varying order.
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
        """Return the weighted loss of each row, [B].

        queries: [B, D] or [B, K, D].
        positives: vectors of the positives, [B, D].
        vectors: vectors of `hard`, [B, h, D].
        positive_log_q: log of the positives' expected counts, [B], which some losses read; scores
        are not corrected by it.
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
        """Return bool [B, M], True where an item of the pool is no hard negative of the row."""
        kept_out = own_slots(pool, len(batch.positive)) | accidental_hits(pool, batch.positive)
        kept_out = kept_out | repeats(pool.ids)
        if not self.known:
            if batch.known is None:
                raise ModelError("hard negatives need the known positives of the batch")
            kept_out = kept_out | known_items(pool, batch.known, batch.positive)
        return kept_out


def check_hard_options(training: Training, objective: Objective) -> None:
    """Refuse hard negatives that the objective excludes, and hard_ options without `hard`.

    Errors: ModelError.
    """
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
    """Tell whether batches must hold the known positives of their users."""
    return training.mask_known or (training.hard is not None and not training.hard_known)


def hard_term_of(training: Training, objective: Objective, world: HardWorld) -> HardTerm | None:
    """Build the hard term of a section; None if it has no `hard`. Errors: ModelError."""
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
    """Return the objective without correction; the temperature is shared, hits are masked."""
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
            f"hard negatives have no known sampling probability, so they are not corrected; {error}"
        ) from error
    plain.log_scale = objective.log_scale
    return plain
