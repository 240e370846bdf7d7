"""Are the negatives enough, of the law they claim, and corrected for it?"""

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
"""What is drawn to see the sampler's law: so many slots, in at most so many pools."""

BUCKETS = 8
ENOUGH = 400
UNLIKELY = 60
"""Items by expected count, the expected draws of a bucket before its count says anything, and the
chi-square over the buckets that a right law exceeds about once in 10^9.
"""

WITH_MEMORY = (MemorySampler, StreamingInBatchSampler)
"""Their pools depend on the pools before: counts of them are no independent draws."""

HARD_TOP = 10
"""The part of a list in which known positives are counted."""


def _in_the_law(subject: Subject) -> Tensor:
    """The item rows that a sampler can draw: not those that were only read, never a positive."""
    return torch.from_numpy(np.flatnonzero(subject.data.item_counts))


def drawn_and_expected(subject: Subject) -> tuple[Tensor, Tensor]:
    """Draw pools for random batches: how often a row met each item, and how often log_q says.

    Both [N + 1], summed over the pools; a row does not meet its own slot.
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
    cure="Give log_q the expected count of the draws made (in-batch: the frequency in the "
    "training stream, not count^0.75).",
)
def logq_from_another_law(subject: Subject) -> str | None:
    """The sampler does not draw by the law it corrects for: log Q belongs to other counts or
    another exponent, so the correction puts a bias in.
    """
    if not subject.objective.correct_sampling or isinstance(subject.sampler, WITH_MEMORY):
        return None
    drawn, expected = drawn_and_expected(subject)
    order = expected[1:].argsort(descending=True) + 1
    # Buckets of equal expected mass, most drawn items first.
    place = expected[order].cumsum(0) / expected.sum() * BUCKETS
    bucket = place.ceil().clamp(1, BUCKETS).long() - 1
    met = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket, drawn[order])
    said = torch.zeros(BUCKETS, dtype=torch.float64).index_add_(0, bucket, expected[order])
    pooled = subject.negatives.ids.dim() == 2
    scale = len(subject.batch.positive) if pooled else 1  # own pools were averaged over the rows
    enough = said * scale > ENOUGH
    off = (met / said - 1).abs().masked_fill(~enough, 0)
    chi_square = float((off.square() * said * scale).sum())
    worst = int(off.argmax())
    if off[worst] < 0.1 or chi_square < UNLIKELY:
        return None
    where = "most" if worst < BUCKETS // 2 else "least"
    return (
        f"among the {where} drawn items a row meets {met[worst] / said[worst]:.2f} times what "
        f"log_q says (bucket {worst + 1} of {BUCKETS}, {met[worst]:,.0f} draws against "
        f"{said[worst]:,.0f})"
    )


@check(
    "popularity-sampling-uncorrected",
    "warning",
    "training",
    "data",
    cure="Leave training.correct_sampling out (on), or sample uniformly.",
)
def popularity_sampling_uncorrected(subject: Subject) -> str | None:
    """Negatives come by popularity and the correction was turned off: the model learns P/Q, not
    P, and popular items are held down.
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
    cure="Nothing, if holding popular items down is wanted; else loss = 'softmax', 'bpr' or 'nce'.",
)
def loss_learns_ratio(subject: Subject) -> str | None:
    """Negatives come by popularity, and this loss has no correction: it learns P/Q, not P."""
    if subject.objective.correct_sampling or not subject.objective.loss.correction.fixed:
        return None
    return _pressure(subject)


def _pressure(subject: Subject) -> str | None:
    """How much harder the sampler presses on the most drawn items than on the median one."""
    _ = subject.negatives  # a sampler may learn as it draws
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
    """Too few negatives for the catalogue: most items are hardly ever pushed away, and float to
    the top unlearned.
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
    """A pointwise loss over an in-batch pool without what keeps it from collapsing: a scale and
    a learned bias (sigmoid contrastive loss).
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
    cure="Set training.hard_known = false: known positives are then passed over.",
)
def hard_negatives_are_positives(subject: Subject) -> str | None:
    """Hard negatives may be items the user is known to like: they are the hardest of all, and
    training pushes them away.
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
    cure="Begin training.hard_ranks lower (100 is usual), or lower training.hard_ceiling.",
)
def hard_negatives_too_near(subject: Subject) -> str | None:
    """Hard negatives are mined so near the top that many are what the user is about to like."""
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
    """Users with a validation event, [U], and their lists before it, [U, k]."""
    users = np.unique(subject.data.log.at("validation").user).astype(np.int64)[:1_000]
    ids = subject.data.users.external(users)
    queries = Queries(ids, before="validation", exclude_seen=exclude_seen)
    return users, subject.retriever.recommend(queries, k).rows


def _share_among(
    rows: NDArray[np.int64], users: NDArray[np.int64], events: Interactions, items: int
) -> float:
    """Which share of the slots hold an item of the same user's events."""
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
