"""What is learned in a world of five items, worked out exactly.

One user picks item i with probability P; negatives are drawn with probability Q. The expected loss
is summed over every positive and every pool that can be, and minimised, so nothing is random.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from shortlist.losses import (
    BinaryCrossEntropyLoss,
    BPRLoss,
    NegativeSamplingLoss,
    NoiseContrastiveLoss,
    SoftmaxLoss,
    TripletLogisticLoss,
)
from shortlist.sampling import Negatives
from shortlist.training.objective import Objective

P = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
Q = torch.tensor([0.6, 0.05, 0.2, 0.05, 0.1], dtype=torch.float64)
EVEN = torch.full((5,), 0.2, dtype=torch.float64)
SUPPRESSED = [0.067227, 0.605042, 0.07563, 0.201681, 0.05042]  # P / Q, normalised


class Outcomes:
    """Every (positive, pool) that can be, with its probability: pools of independent slots.

    log_q: of each item; the summed expected count unless given.
    """

    def __init__(self, slots: list[Tensor], log_q: Tensor | None = None) -> None:
        pools = torch.tensor(list(itertools.product(range(5), repeat=len(slots))))
        self.positive = torch.arange(5).repeat_interleave(len(pools))
        ids = pools.repeat(5, 1)
        self.chance = P[self.positive]
        for slot, frequency in enumerate(slots):
            self.chance = self.chance * frequency[ids[:, slot]]
        self.log_q = sum(slots).log() if log_q is None else log_q
        self.pool = Negatives.drawn(ids, self.log_q[ids])


def learned(objective: Objective, *outcomes: Outcomes) -> Tensor:
    """The scores [5] that minimise the expected loss, from the objective's own gradients."""
    scores = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    trained = [scores, *(objective.parameters() if objective.training else [])]
    optimizer = torch.optim.LBFGS(
        trained,
        max_iter=1000,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def expected_loss():
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for part in outcomes:
            rows = objective(
                torch.ones(len(part.positive), 1, dtype=torch.float64),
                scores[part.positive],
                scores[part.pool.ids],
                positive_ids=part.positive,
                positive_log_q=part.log_q[part.positive],
                negatives=part.pool,
            )
            total = total + part.chance @ rows
        total.backward()
        return total

    optimizer.step(expected_loss)
    return scores.detach().squeeze(1)


def shares(scores: Tensor) -> Tensor:
    return scores.softmax(0)


def same(found: Tensor, wanted) -> bool:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    return True


def top(found: Tensor) -> float:
    return round(found[0].item(), 4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_b_corrected_draws_with_their_hits_learn_the_truth_for_any_pool(size):
    assert same(shares(learned(Objective(SoftmaxLoss(), "dot"), Outcomes([Q] * size))), P)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 2.0])
def test_log_q_is_not_divided_by_the_temperature(temperature):
    objective = Objective(SoftmaxLoss(), "dot", temperature=temperature)
    assert same(shares(learned(objective, Outcomes([Q] * 2)) / temperature), P)


@pytest.mark.parametrize(("size", "wanted"), [(2, 0.4308), (4, 0.474)])
def test_b_dropping_the_hits_of_corrected_draws_overrates_popular_items(size, wanted):
    dropped = Objective(SoftmaxLoss(), "dot", mask_hits=True)
    assert top(shares(learned(dropped, Outcomes([Q] * size)))) == pytest.approx(wanted, abs=1e-3)


def with_own_slot(size: int, *, marked: bool) -> Outcomes:
    """Draws, and the row's own positive among them, marked as such or not."""
    outcomes = Outcomes([Q] * size)
    ids = torch.cat([outcomes.positive.unsqueeze(1), outcomes.pool.ids], dim=1)
    source = torch.full_like(ids, -1)
    if marked:
        source[:, 0] = torch.arange(len(ids))
    outcomes.pool = Negatives(ids, outcomes.log_q[ids], source, distinct=False)
    return outcomes


@pytest.mark.parametrize(("size", "left_in"), [(2, 0.458), (4, 0.449)])
def test_a_the_rows_own_slot_is_removed_and_left_in_would_overrate(size, left_in):
    objective = Objective(SoftmaxLoss(), "dot")
    assert same(shares(learned(objective, with_own_slot(size, marked=True))), P)
    wrong = shares(learned(objective, with_own_slot(size, marked=False)))
    assert top(wrong) == pytest.approx(left_in, abs=1e-3)


def full_catalogue() -> Outcomes:
    outcomes = Outcomes([EVEN], log_q=torch.zeros(5, dtype=torch.float64))
    outcomes.positive = torch.arange(5)
    outcomes.chance = P
    everything = torch.arange(5)
    certain = torch.zeros(5, dtype=torch.float64)
    outcomes.pool = Negatives(
        everything.expand(5, 5), certain.expand(5, 5), torch.full((5, 5), -1), distinct=True
    )
    return outcomes


def test_c_the_full_catalogue_learns_the_truth_and_with_its_hits_would_not():
    assert same(shares(learned(Objective(SoftmaxLoss(), "dot"), full_catalogue())), P)
    kept = Objective(SoftmaxLoss(), "dot", mask_hits=False)
    assert top(shares(learned(kept, full_catalogue()))) == pytest.approx(0.370, abs=1e-3)


def independent_inclusion() -> list[Outcomes]:
    """Each item is in the pool or not, on its own, with probability Q: pools of each size."""
    by_size = []
    for size in range(6):
        pools = list(itertools.combinations(range(5), size))
        inside = torch.zeros(len(pools), 5, dtype=torch.bool)
        for row, pool in enumerate(pools):
            inside[row, list(pool)] = True
        chance = torch.where(inside, Q, 1 - Q).prod(1)
        part = Outcomes([EVEN], log_q=Q.log())
        part.positive = torch.arange(5).repeat_interleave(len(pools))
        part.chance = P[part.positive] * chance.repeat(5)
        ids = torch.tensor(pools, dtype=torch.int64).view(len(pools), size).repeat(5, 1)
        part.pool = Negatives(ids, Q.log()[ids], torch.full_like(ids, -1), distinct=True)
        by_size.append(part)
    assert sum(part.chance.sum() for part in by_size).item() == pytest.approx(1)
    return by_size


def test_c_pools_of_distinct_items_learn_the_truth_without_their_hits():
    found = shares(learned(Objective(SoftmaxLoss(), "dot"), *independent_inclusion()))
    assert same(found, [0.4, 0.3, 0.15, 0.1, 0.05])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_d_without_correction_p_over_q_is_learned(size):
    uncorrected = Objective(SoftmaxLoss(), "dot", correct_sampling=False, mask_hits=False)
    assert same(shares(learned(uncorrected, Outcomes([Q] * size))), SUPPRESSED)


def test_d_without_correction_hits_are_masked_by_default():
    uncorrected = Objective(SoftmaxLoss(), "dot", correct_sampling=False)
    wanted = [0.074655, 0.61639, 0.071506, 0.193768, 0.043681]
    assert same(shares(learned(uncorrected, Outcomes([Q] * 2))), wanted)


@pytest.mark.parametrize(("size", "wanted"), [(2, 0.101), (4, 0.207)])
def test_a_positive_left_uncorrected_is_underrated(size, wanted):
    outcomes = Outcomes([Q] * size)
    outcomes.log_q = torch.zeros(5, dtype=torch.float64)  # of the positives; the pool has its own
    found = shares(learned(Objective(SoftmaxLoss(), "dot"), outcomes))
    assert top(found) == pytest.approx(wanted, abs=1e-3)


def test_slots_drawn_from_a_mixture_learn_the_truth():
    mixture = (2 * Q + EVEN) / 3
    assert same(shares(learned(Objective(SoftmaxLoss(), "dot"), Outcomes([mixture] * 3))), P)


@pytest.mark.parametrize(("drawn", "even", "wanted"), [(2, 1, 0.4042), (3, 2, 0.4025)])
def test_a_mixture_in_parts_of_fixed_size_has_a_bias_that_shrinks(drawn, even, wanted):
    parts = Outcomes([Q] * drawn + [EVEN] * even)
    found = shares(learned(Objective(SoftmaxLoss(), "dot"), parts))
    assert top(found) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        BPRLoss(),
        TripletLogisticLoss(scale=1.0),
        BinaryCrossEntropyLoss(),
        NoiseContrastiveLoss(),
        SoftmaxLoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_every_loss_that_can_be_corrected_learns_the_truth(loss, similarity):
    objective = Objective(loss, similarity)
    places = learned(objective, Outcomes([Q]))
    scores = places if similarity == "dot" else -(1 - places).square()
    assert same(shares(scores), P)


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_nce_learns_log_p_itself_and_without_the_count_log_p_less_log_k(draws):
    objective = Objective(NoiseContrastiveLoss(), "dot").eval()  # its bias stays 0
    exact = learned(objective, Outcomes([Q] * draws))
    assert same(exact, P.log())
    by_chance = learned(objective, Outcomes([Q] * draws, log_q=Q.log()))
    assert same(by_chance, P.log() - math.log(draws))


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_neg_learns_log_p_over_q_less_log_k(draws):
    objective = Objective(NegativeSamplingLoss(), "dot", mask_hits=False).eval()
    found = learned(objective, Outcomes([Q] * draws))
    assert same(found, (P / Q).log() - math.log(draws))
