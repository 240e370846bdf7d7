"""What is learned in worlds of five items and one or two users, worked out exactly.

One user picks item i with probability P; negatives are drawn with probability Q. The expected loss
is summed over every positive and every pool that can be, and minimised, so nothing is random.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.losses import (
    BinaryCrossEntropyLoss,
    BPRLoss,
    GeneralizedBinaryCrossEntropyLoss,
    NegativeSamplingLoss,
    NoiseContrastiveLoss,
    SoftmaxLoss,
    SquaredCosineLoss,
    SquaredLoss,
    TripletLogisticLoss,
)
from shortlist.sampling import Negatives, build_sampler
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


def as_they_are(places: Tensor) -> tuple[Tensor, Tensor]:
    """A query, and items that lie at these places: with a dot product they are the scores."""
    return torch.ones(1, dtype=torch.float64), places


def as_angles(places: Tensor) -> tuple[Tensor, Tensor]:
    """A query, and items at these angles from it: their cosine is the score."""
    items = torch.cat([places.cos(), places.sin()], dim=1)
    return torch.tensor([1.0, 0.0], dtype=torch.float64), items


def learned(objective: Objective, *outcomes: Outcomes, vectors=as_they_are, start=0.0) -> Tensor:
    """The places [5] that minimise the expected loss, from the objective's own gradients."""
    scores = torch.full((5, 1), start, dtype=torch.float64, requires_grad=True)
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
        query, items = vectors(scores)
        for part in outcomes:
            rows = objective(
                query.expand(len(part.positive), -1),
                items[part.positive],
                items[part.pool.ids],
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


@pytest.mark.parametrize("frequency", [Q, EVEN], ids=["by popularity", "evenly"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gbce_fully_calibrated_learns_the_probability_whatever_was_drawn(size, frequency):
    objective = Objective(GeneralizedBinaryCrossEntropyLoss(calibration=1.0), "dot").eval()
    assert same(learned(objective, Outcomes([frequency] * size)).sigmoid(), P)


@pytest.mark.parametrize("calibration", [0.0, 0.5])
def test_gbce_less_calibrated_is_overconfident_by_what_is_left(calibration):
    objective = Objective(GeneralizedBinaryCrossEntropyLoss(calibration), "dot").eval()
    found = learned(objective, Outcomes([EVEN, EVEN])).exp()  # the odds
    rate = 2 / 5
    beta = 1 - calibration * (1 - rate)
    assert same(found, beta / rate * P / (1 - P))
    if calibration == 0:
        bce = Objective(BinaryCrossEntropyLoss(), "dot", correct_sampling=False).eval()
        assert same(learned(bce, Outcomes([EVEN, EVEN])).exp(), found)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_squared_cosines_settle_between_the_pull_of_positives_and_of_draws(size):
    objective = Objective(SquaredCosineLoss(), "cosine", mask_hits=False)
    angles = learned(objective, Outcomes([Q] * size), vectors=as_angles, start=1.0)
    assert same(angles.cos(), (P - size * Q) / (P + size * Q))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_squares_settle_between_the_ones_met_and_the_zeros_drawn(size):
    objective = Objective(SquaredLoss(), "dot", mask_hits=False)
    assert same(learned(objective, Outcomes([Q] * size)), P / (P + size * Q))


def test_the_catalogue_sampler_makes_softmax_learn_the_truth():
    world = full_catalogue()
    counts = torch.tensor([0, 8, 6, 3, 2, 1])
    pool = build_sampler("catalogue", counts).sample(Batch(*[world.positive] * 3, None), None)
    ids = (pool.ids - 1).expand(5, 5)  # this world counts its items from 0
    world.pool = Negatives(ids, pool.log_q.expand(5, 5), torch.full_like(ids, -1), pool.distinct)
    assert same(shares(learned(Objective(SoftmaxLoss(), "dot"), world)), P)


# A world of two users, who come by as often as each other and like what the other does not. Slots
# are drawn from the log, except for a share that comes from the history of the row's own user.

ONE = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.05], dtype=torch.float64)
LOG = (ONE + ONE.flip(0)) / 2


def of_the_first_user(own_share: float, slots: int, *, masked: bool = False) -> Outcomes:
    """What the rows of the first user meet. masked: slots from her own history are left out."""
    drawn = LOG if masked else (1 - own_share) * LOG + own_share * ONE
    outcomes = Outcomes([drawn] * slots, log_q=(slots * LOG).log())
    outcomes.chance = outcomes.chance / P[outcomes.positive] * ONE[outcomes.positive]
    if masked:  # each slot is hers with that chance, and then marked as the row's own
        hers = torch.tensor(list(itertools.product([False, True], repeat=slots)))
        rows, kinds = len(outcomes.positive), len(hers)
        odds = torch.where(hers, own_share, 1 - own_share).double().prod(dim=1)
        outcomes.chance = (outcomes.chance.unsqueeze(1) * odds).flatten()
        outcomes.positive = outcomes.positive.repeat_interleave(kinds)
        ids = outcomes.pool.ids.repeat_interleave(kinds, dim=0)
        row = torch.arange(rows * kinds).unsqueeze(1)
        source = torch.where(hers.repeat(rows, 1), row, -1)
        outcomes.pool = Negatives(ids, outcomes.log_q[ids], source, distinct=False)
    return outcomes


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize(("own_share", "wanted"), [(0.0, 0.6), (0.1, 0.583), (0.5, 0.506)])
def test_slots_from_the_rows_own_user_hide_what_she_likes(own_share, wanted, slots):
    """In-batch correction takes slots to be independent of the row's user: here they are not."""
    found = shares(learned(Objective(SoftmaxLoss(), "dot"), of_the_first_user(own_share, slots)))
    by_hand = ONE * LOG / ((1 - own_share) * LOG + own_share * ONE)
    assert same(found, by_hand / by_hand.sum())
    assert top(found) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("own_share", [0.1, 0.5])
def test_masking_the_slots_of_the_rows_own_user_is_exact_again(own_share):
    outcomes = of_the_first_user(own_share, 2, masked=True)
    assert same(shares(learned(Objective(SoftmaxLoss(), "dot"), outcomes)), ONE)
