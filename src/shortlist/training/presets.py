"""What do the modes pointwise, pairwise and listwise mean? Each names a loss and a sampler."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shortlist.config import Mode, Training
from shortlist.config.parts import given
from shortlist.errors import ModelError
from shortlist.losses import LOSSES, SoftmaxLoss, build_loss
from shortlist.losses.base import reads_values
from shortlist.sampling import MixedSampler, build_sampler
from shortlist.sampling.base import GoesOn, NegativeSampler
from shortlist.sampling.nothing import NoNegatives
from shortlist.sections.base import is_auto
from shortlist.training.objective import Objective, build_objective


@dataclass(frozen=True)
class Preset:
    """The defaults of a mode.

    loss: name of the loss.
    sampler: name of the sampler.
    negatives: negatives per row, with this sampler only; a loss with `usual_negatives` gets those.
    shared: whether one pool serves all rows, with this sampler only.
    """

    loss: str
    sampler: str
    negatives: int | None = None
    shared: bool | None = None


PRESETS: dict[Mode, Preset] = {
    "pointwise": Preset("bce", "uniform", negatives=4, shared=False),
    "pairwise": Preset("bpr", "uniform", negatives=4, shared=False),
    "listwise": Preset("softmax", "in_batch"),
}


IN_BATCH = ("in_batch", "in_batch_streaming")
"""Samplers whose pool is the items of the batch alone."""

DRAWN = ("catalogue", "uniform", "popularity", "mixture")
"""Samplers whose pool does not depend on the batches."""


NEXT_TO_NEVER = 1e-9
"""Count of an item that is in the log but in no batch: the log of 0 is not finite."""


@dataclass(frozen=True)
class Choice:
    """Loss and sampler of a [training] section, with the defaults of its mode."""

    loss: str
    sampler: str
    negatives: int | None
    shared: bool | None


def choose(training: Training) -> Choice:
    """Return loss and sampler of a section: its own values, else the defaults of its mode."""
    preset = PRESETS[training.mode]
    loss = preset.loss if training.loss is None else training.loss
    sampler = preset.sampler if training.sampler is None else training.sampler
    negatives, shared = training.negatives, training.shared
    if sampler == preset.sampler:
        shared = preset.shared if shared is None else shared
        negatives = _usual_negatives(preset, loss) if negatives is None else negatives
    return Choice(loss, sampler, negatives, shared)


def _usual_negatives(preset: Preset, loss: str) -> int | None:
    if preset.negatives is None or loss not in LOSSES:  # an unknown loss is refused later
        return preset.negatives
    meant_for = LOSSES[loss]().usual_negatives
    return preset.negatives if meant_for is None else meant_for


def objective_of(training: Training) -> Objective:
    """Build the objective of a section. Errors: ModelError."""
    choice = choose(training)
    return build_objective(
        choice.loss,
        similarity=training.similarity,
        temperature=training.temperature,
        learn_temperature=training.learn_temperature,
        correct_sampling=training.correct_sampling,
        correct_positives=training.correct_positives,
        mask_hits=training.mask_hits,
        mask_known=training.mask_known,
        sampler=choice.sampler,
        **given(training, "loss"),
    )


def softmax_over_one_pool(training: Training, objective: Objective) -> bool:
    """Tell whether the loss of a section is computed in blocks, see `Objective.in_blocks`."""
    return type(objective.loss) is SoftmaxLoss and choose(training).shared is not False


def sampler_of(training: Training, counts: Tensor, drawn: Tensor | None = None) -> NegativeSampler:
    """Build the sampler of a section.

    counts: number of positives of each item row in the batches, [N + 1].
    drawn: the same over the whole log, for a refresh, whose batches hold a part of the log.
    Negatives that do not come from the batches are drawn by these counts; otherwise items outside
    the batches would never be negatives. A sampler that estimates frequencies starts from them.
    Errors: ModelError for options that do not work together.
    """
    choice = choose(training)
    if reads_values(build_loss(choice.loss, **given(training, "loss"))):
        _refuse_beside_values(training)
        return NoNegatives()
    size = training.batch_size
    if choice.sampler in IN_BATCH and not is_auto(size) and size < 2:
        raise ModelError("in-batch negatives need training.batch_size of at least 2")

    def of(counts: Tensor) -> NegativeSampler:
        return build_sampler(
            choice.sampler,
            counts,
            negatives=choice.negatives,
            shared=choice.shared,
            **given(training, "sampler"),
        )

    if drawn is None:
        return of(counts)
    if choice.sampler in DRAWN:
        return of(drawn)
    if isinstance(goes_on := of(counts), GoesOn):
        goes_on.go_on(counts, drawn, torch.Generator().manual_seed(training.seed))
        return goes_on
    if choice.sampler != "mixed":
        return of(counts)
    # Items that no batch holds get a tiny count, because the log of 0 is not finite.
    batches = of(counts.double().masked_fill((counts == 0) & (drawn > 0), NEXT_TO_NEVER))
    whole = of(drawn)
    assert isinstance(batches, MixedSampler)
    assert isinstance(whole, MixedSampler)
    return MixedSampler((batches.parts[0], *whole.parts[1:]))


def _refuse_beside_values(training: Training) -> None:
    """Refuse options that have no effect on a loss that is fitted to event values."""
    drawn = ("sampler", "negatives", "shared", "mask_hits", "mask_known", "hard")
    for key in drawn:
        if getattr(training, key) not in (None, False):
            raise ModelError(
                f"training.{key} does nothing with a loss that is fitted to the values of events "
                "(values = 'explicit'), because it has no negatives: leave it out"
            )
    if training.weighted:
        raise ModelError(
            "training.weighted weights the loss by data.weight, and values = 'explicit' fits "
            "scores to it: leave one of them out"
        )
