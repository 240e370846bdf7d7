"""How are negatives drawn? Each file has one sampler; SAMPLERS finds them by name."""

import inspect
from typing import Any

from torch import Tensor

from shortlist.errors import ModelError, suggest_part
from shortlist.sampling.base import Exactness, Negatives, NegativeSampler
from shortlist.sampling.catalogue import CatalogueSampler
from shortlist.sampling.hard import HARD, check_not_alone
from shortlist.sampling.in_batch import InBatchSampler
from shortlist.sampling.in_batch_streaming import StreamingInBatchSampler
from shortlist.sampling.memory import MemorySampler
from shortlist.sampling.mixed import MixedSampler
from shortlist.sampling.mixture import MixtureSampler
from shortlist.sampling.popularity import PopularitySampler
from shortlist.sampling.uniform import UniformSampler

SAMPLERS: dict[str, type[Any]] = {
    "uniform": UniformSampler,
    "popularity": PopularitySampler,
    "in_batch": InBatchSampler,
    "in_batch_streaming": StreamingInBatchSampler,
    "memory": MemorySampler,
    "mixed": MixedSampler,
    "mixture": MixtureSampler,
    "catalogue": CatalogueSampler,
}


def check_sampler(name: str, **options: object) -> None:
    """Refuse an unknown sampler, and an option that it does not use.

    options: by name; None means that the option was not given. Errors: ModelError with the reason.
    """
    check_not_alone(name)
    if name not in SAMPLERS:
        raise ModelError(f"unknown sampler '{name}'.{suggest_part(name, SAMPLERS)}")
    for option in sorted(option for option, value in options.items() if value is not None):
        users = [f"'{other}'" for other in SAMPLERS if option in _options_of(other)]
        if option in SAMPLERS[name].refuses:
            reason = SAMPLERS[name].refuses[option]
        elif option in _options_of(name) or not users:  # no sampler's: the objective checks it
            continue
        else:
            reason = f"leave it out, it belongs to sampler = {' or '.join(users)}"
        raise ModelError(f"sampler '{name}' does not use {option}: {reason}")


def _options_of(name: str) -> set[str]:
    return set(inspect.signature(SAMPLERS[name].from_counts).parameters)


def build_sampler(
    name: str,
    counts: Tensor,
    negatives: int | None = None,
    shared: bool | None = None,
    **options: Any,
) -> NegativeSampler:
    """Return the sampler of that name.

    counts: training positives of each item row, [N + 1], counts[0] = 0, on the batches' device.
    negatives: size of the pool, M; None takes the sampler's default.
    shared: one pool for the whole batch, or one for each row; None takes the default.
    options: further parameters of the sampler, such as alpha or mixture.
    Errors: ModelError for an unknown name, and for an option that the sampler does not have.

    >>> from torch import tensor
    >>> build_sampler("popularity", tensor([0, 3, 1]), alpha=1).frequency
    tensor([0.0000, 0.7500, 0.2500], dtype=torch.float64)
    """
    options |= {"negatives": negatives, "shared": shared}
    check_sampler(name, **options)
    given = {option: value for option, value in options.items() if value is not None}
    sampler: NegativeSampler = SAMPLERS[name].from_counts(counts, **given)
    return sampler


__all__ = [
    "HARD",
    "SAMPLERS",
    "CatalogueSampler",
    "Exactness",
    "InBatchSampler",
    "MemorySampler",
    "MixedSampler",
    "MixtureSampler",
    "NegativeSampler",
    "Negatives",
    "PopularitySampler",
    "StreamingInBatchSampler",
    "UniformSampler",
    "build_sampler",
    "check_sampler",
]
