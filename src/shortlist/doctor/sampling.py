"""Are there enough negatives, and does log Q state their distribution?"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shortlist.asking.queries import Queries
from shortlist.config.parts import given
from shortlist.data.interactions import Interactions
from shortlist.doctor.base import Subject, check, generator
from shortlist.losses import SoftmaxLoss
from shortlist.sampling import MemorySampler, StreamingInBatchSampler
from shortlist.sampling.base import own_slots
from shortlist.training.presets import choose

DRAWS = 50_000
POOLS = 200
"""The sampler is observed on this many slots, in at most this many pools."""

BUCKETS = 8
ENOUGH = 400
UNLIKELY = 60
"""Items are grouped into buckets by expected count. A bucket counts from this many expected draws,
and a correct sampler exceeds this chi-square over the buckets about once in 10^9.
"""

WITH_MEMORY = (MemorySampler, StreamingInBatchSampler)
"""Samplers whose pools depend on earlier pools, so that their draws are not independent."""

HARD_TOP = 10
"""Known positives are counted in the first so many items of a list."""


def _in_the_law(subject: Subject) -> Tensor:
    """Return the item rows that a sampler can draw: those that were a positive."""
    return torch.from_numpy(np.flatnonzero(subject.data.item_counts))


def drawn_and_expected(subject: Subject) -> tuple[Tensor, Tensor]:
    """Draw pools for random batches, and compare them with log_q.

    Returns how often a row met each item and how often log_q expects it, [N + 1] each, summed over
    the pools. A row does not meet its own slot.
    """
    random = generator()
    trained = subject.data.items.trained
    every = _in_the_law(subject)
    drawn = torch.zeros(trained + 1, dtype=torch.float64)
    expected = torch.zeros(trained + 1, dtype=torch.float64)
    slots = pools = 0
    while slots < DRAWS and pools < POOLS:
        batch = subject.random_batch(random)
        rows = len(batch.positive)
        negatives = subject.sampler.sample(batch, random)
        if negatives.ids.dim() == 1:
            met = 1 - own_slots(negatives, rows).double().mean(dim=0)
        else:
            met = torch.full(negatives.ids.shape, 1 / rows, dtype=torch.float64)
        drawn.index_add_(0, negatives.ids.flatten(), met.flatten())
        expected[every] += subject.sampler.log_q(every, batch).double().exp()
        slots += negatives.ids.numel()
        pools += 1
    return drawn, expected


@check(
    "logq-from-another-law",
    "error",
    "training",
    "data",
    cure="Set log_q to the expected count of the draws made (in-batch: the frequency in the "
    "training stream, not count^0.75).",
)
def logq_from_another_law(subject: Subject) -> str | None:
    """The sampler draws from another distribution than log Q states (other counts or another
    exponent), so the correction adds a bias.
    """
    if not subject.objective.correct_sampling or isinstance(subject.sampler, WITH_MEMORY):
        return None
    drawn, expected = drawn_and_expected(subject)
    order = expected[1:].argsort(descending=True) + 1
    # Buckets of equal expected mass, the most drawn items first.
    place = expected[order].cumsum(0) / expected.sum() * BUCKETS
    bucket = place.ceil().clamp(1, BUCKETS).long() - 1
    met = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket, drawn[order])
    claimed = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket, expected[order])
    pooled = subject.negatives.ids.dim() == 2
    scale = len(subject.batch.positive) if pooled else 1  # pools per row were averaged over rows
    enough = claimed * scale > ENOUGH
    off = (met / claimed - 1).abs().masked_fill(~enough, 0)
    chi_square = float((off.square() * claimed * scale).sum())
    worst = int(off.argmax())
    if off[worst] < 0.1 or chi_square < UNLIKELY:
        return None
    where = "most" if worst < BUCKETS // 2 else "least"
    return (
        f"among the {where} drawn items a row meets {met[worst] / claimed[worst]:.2f} times what "
        f"log_q says (bucket {worst + 1} of {BUCKETS}, {met[worst]:,.0f} draws against "
        f"{claimed[worst]:,.0f})"
    )


@check(
    "popularity-sampling-uncorrected",
    "warning",
    "training",
    "data",
    cure="Leave training.correct_sampling out, so that the correction is on, or sample uniformly.",
)
def popularity_sampling_uncorrected(subject: Subject) -> str | None:
    """Negatives are drawn by popularity and the correction is turned off: the model learns P/Q
    instead of P, and popular items rank too low.
    """
    training = subject.training
    if training.correct_sampling is not False or subject.objective.loss.correction.fixed:
        return None
    return _pressure(subject)


@check(
    "loss-learns-ratio",
    "info",
    "training",
    "data",
    cure="Nothing to do if popular items should rank lower; otherwise loss = 'softmax', 'bpr' or "
    "'nce'.",
)
def loss_learns_ratio(subject: Subject) -> str | None:
    """Negatives are drawn by popularity, and this loss has no correction: it learns P/Q, not P."""
    if subject.objective.correct_sampling or not subject.objective.loss.correction.fixed:
        return None
    return _pressure(subject)


def _pressure(subject: Subject) -> str | None:
    """Return how much more often the most drawn item is a negative than the median one."""
    _ = subject.negatives  # some samplers estimate log Q from what they draw
    log_q = subject.sampler.log_q(_in_the_law(subject), subject.batch)
    factor = float((log_q.max() - log_q.median()).exp())
    if factor < 2:
        return None
    return (
        f"sampler '{choose(subject.training).sampler}': the most drawn item is held down "
        f"{factor:,.0f} times as hard as the median one"
    )


@check(
    "too-few-negatives",
    "warning",
    "training",
    "data",
    cure="Raise training.batch_size (in-batch) or training.negatives, or use sampler = 'mixed'.",
)
def too_few_negatives(subject: Subject) -> str | None:
    """There are too few negatives for the catalogue: most items are hardly ever drawn, so they
    keep their initial scores and may rank at the top.
    """
    trained = subject.data.items.trained
    count = subject.negatives_a_row
    if isinstance(subject.objective.loss, SoftmaxLoss) and count < min(50, trained // 10):
        return (
            f"{count} negatives a row for a softmax over {trained:,} items: a pool that small "
            "hardly ever holds a rival of the positive"
        )
    drawn = torch.from_numpy(np.flatnonzero(subject.data.item_counts))
    median = subject.sampler.log_q(drawn, subject.batch).median().exp()
    shared = subject.negatives.ids.dim() == 1
    pools = len(subject.batches) if shared else len(subject.data.training_targets)
    draws = float(median) * pools * subject.training.epochs
    if draws >= 5:
        return None
    return (
        f"the median of {trained:,} items is drawn {draws:.2g} times in "
        f"{subject.training.epochs} epochs"
    )


@check(
    "in-batch-pointwise-collapse",
    "error",
    "training",
    "data",
    cure="Keep the objective's learned bias and a temperature of about 0.1, use a few uniform "
    "negatives a row, or loss = 'softmax'.",
)
def in_batch_pointwise_collapse(subject: Subject) -> str | None:
    """A pointwise loss over an in-batch pool lacks the scale or the learned bias that keeps
    its vectors from collapsing (as in the sigmoid contrastive loss).
    """
    objective, count = subject.objective, subject.negatives_a_row
    pointwise = not objective.loss.shift_invariant
    if not pointwise or not bool((subject.negatives.source >= 0).any()):
        return None
    lacks = []
    if objective.loss.needs_raw is not None:
        meant_for = objective.loss.usual_negatives
        if meant_for is not None and count > 10 * meant_for:
            lacks.append(f"a loss meant for {meant_for} negatives a row")
    else:
        if objective.bias is None or not objective.bias.requires_grad:
            lacks.append("no learned bias")
        if objective.similarity == "cosine" and objective.temperature >= 1:
            lacks.append(f"temperature {objective.temperature:g} on a cosine")
    if not lacks:
        return None
    return f"{count:,} negatives against one positive, {' and '.join(lacks)}"


@check(
    "hard-negatives-are-positives",
    "warning",
    "training",
    cure="Set training.hard_known = false to skip known positives.",
)
def hard_negatives_are_positives(subject: Subject) -> str | None:
    """Known positives of the user may be drawn as hard negatives: they rank highest, and training
    pushes them away.
    """
    training = subject.training
    if training.hard is None or not training.hard_known:
        return None
    said = f"hard = '{training.hard}', hard_known = true"
    if not {"retriever", "towers"} <= subject.given:
        return said
    users, rows = _lists(subject, HARD_TOP, exclude_seen=False)
    log = subject.data.log.before("validation")
    liked = _share_among(rows, users, log, len(subject.data.items))
    return f"{said}: {liked:.0%} of the top {HARD_TOP} of a user are known positives"


@check(
    "hard-negatives-too-near",
    "warning",
    "retriever",
    cure="Start training.hard_ranks further down (100 is usual), or lower training.hard_ceiling.",
)
def hard_negatives_too_near(subject: Subject) -> str | None:
    """Hard negatives are mined from ranks so high that many are the user's next positives."""
    training, data = subject.training, subject.data
    ranks = given(training, "hard").get("ranks")
    if training.hard != "mined" or ranks is None or data.fit == "all":
        return None
    first, last = ranks
    users, rows = _lists(subject, last, exclude_seen=True)
    wanted = data.log.at("validation")
    share = _share_among(rows[:, first - 1 :], users, wanted, len(data.items))
    if share < 0.01:
        return None
    return f"{share:.1%} of ranks {first} to {last} are the user's own validation events"


def _lists(
    subject: Subject, k: int, *, exclude_seen: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return users with a validation event, [U], and their lists before it, [U, k]."""
    users = np.unique(subject.data.log.at("validation").user).astype(np.int64)[:1_000]
    ids = subject.data.users.external(users)
    queries = Queries(ids, before="validation", exclude_seen=exclude_seen)
    return users, subject.retriever.recommend(queries, k).rows


def _share_among(
    rows: NDArray[np.int64], users: NDArray[np.int64], events: Interactions, items: int
) -> float:
    """Return the share of the slots that hold an item of the same user's events."""
    keys = np.where(rows >= 0, users[:, None] * (items + 1) + rows, -1)
    held = events.user.astype(np.int64) * (items + 1) + events.item
    return float(np.isin(keys[rows >= 0], held).mean()) if (rows >= 0).any() else 0.0


CHECKS = (
    logq_from_another_law,
    popularity_sampling_uncorrected,
    loss_learns_ratio,
    too_few_negatives,
    in_batch_pointwise_collapse,
    hard_negatives_are_positives,
    hard_negatives_too_near,
)
