"""What every loss keeps to, run over the table LOSSES."""

import pytest
import torch

from shortlist.errors import ModelError
from shortlist.losses import LOSSES, Scores
from shortlist.training.objective import Objective

pytestmark = pytest.mark.parametrize("loss", [make() for make in LOSSES.values()], ids=LOSSES)


@pytest.fixture
def scores(loss) -> Scores:
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(6, generator=generator, dtype=torch.float64)
    negative = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    valid = torch.rand(6, 9, generator=generator) < 0.7
    assert valid.any(1).all()
    assert not valid.all()
    if loss.needs_raw is not None:
        positive, negative = positive.tanh(), negative.tanh()
    return Scores(
        positive,
        negative,
        valid,
        rate=torch.linspace(0.1, 0.6, 6).double(),
        value=torch.linspace(1, 5, 6).double(),
    )


def row(scores, i) -> Scores:
    return Scores(*(part[i : i + 1] for part in scores))


def test_a_row_is_computed_from_that_row_alone(loss, scores):
    whole = loss(scores)
    assert whole.shape == (6,)
    for i in range(6):
        torch.testing.assert_close(loss(row(scores, i)), whole[i : i + 1])


def test_the_order_of_the_negatives_means_nothing(loss, scores):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = scores._replace(negative=scores.negative[:, order], valid=scores.valid[:, order])
    torch.testing.assert_close(loss(shuffled), loss(scores))


@pytest.mark.parametrize("rubbish", [1e30, float("inf"), float("-inf"), float("nan")])
def test_a_masked_negative_costs_nothing_and_moves_nothing(loss, scores, rubbish):
    positive = scores.positive.clone().requires_grad_()
    negative = scores.negative.masked_fill(~scores.valid, rubbish).requires_grad_()
    dirty = loss(scores._replace(positive=positive, negative=negative))
    torch.testing.assert_close(dirty.detach(), loss(scores))
    dirty.sum().backward()
    assert positive.grad.isfinite().all()
    assert (negative.grad[~scores.valid] == 0).all()


def test_masking_a_negative_is_leaving_it_out(loss, scores):
    for i in range(6):
        kept = scores.negative[i : i + 1, scores.valid[i]]
        left = row(scores, i)._replace(negative=kept, valid=torch.ones_like(kept, dtype=torch.bool))
        torch.testing.assert_close(loss(left), loss(scores)[i : i + 1])


def without_negatives(scores) -> Scores:
    return scores._replace(valid=torch.zeros_like(scores.valid))


@pytest.mark.parametrize("masked", [True, False], ids=["all masked", "none there"])
def test_without_a_valid_negative_only_a_pointwise_loss_costs(loss, scores, masked):
    positive = scores.positive.clone().requires_grad_()
    alone = without_negatives(scores._replace(positive=positive))
    if not masked:
        alone = alone._replace(negative=alone.negative[:, :0], valid=alone.valid[:, :0])
    rows = loss(alone)
    rows.sum().backward()
    if loss.shift_invariant:
        assert (rows == 0).all()
        assert (positive.grad == 0).all()
    else:
        assert (rows > 0).all()
        assert (positive.grad < 0).all()


def test_scores_of_200_give_finite_float32_values_and_gradients(loss):
    for p, n in [(200.0, -200.0), (-200.0, 200.0), (200.0, 200.0), (-200.0, -200.0)]:
        positive = torch.full((2,), p, requires_grad=True)
        negative = torch.full((2, 4), n, requires_grad=True)
        valid = torch.ones(2, 4, dtype=torch.bool)
        rows = loss(Scores(positive, negative, valid, rate=torch.full((2,), 0.5)))
        rows.sum().backward()
        assert rows.dtype == torch.float32
        assert rows.isfinite().all()
        assert loss.needs_raw == "cosine" or (rows >= 0).all()  # no cosine is 200
        assert positive.grad.isfinite().all()
        assert negative.grad.isfinite().all()


def test_it_falls_as_the_positive_rises_wherever_it_is_active_and_never_rises(loss, scores):
    reach = 10 if loss.needs_raw is None else 1
    steps = torch.linspace(-reach, reach, 81, dtype=torch.float64)
    for i in range(6):
        many = Scores(*(part.expand(81, *part.shape[1:]) for part in row(scores, i)))
        cost = loss(many._replace(positive=steps))
        assert (cost.diff() <= 0).all()
        assert (cost.diff() < 0)[cost[:-1] > 0].all()
        assert cost[0] > cost[-1]


def test_it_rises_as_a_negative_does_wherever_it_is_active_and_never_falls(loss, scores):
    reach = 10 if loss.needs_raw is None else 1
    least = 0 if loss.needs_raw == "dot" else -reach  # a target of 0
    steps = torch.linspace(least, reach, 81, dtype=torch.float64)
    for i in range(6):
        many = Scores(*(part.expand(81, *part.shape[1:]).clone() for part in row(scores, i)))
        column = int(scores.valid[i].nonzero()[0])
        many.negative[:, column] = steps
        cost = loss(many)
        assert (cost.diff() >= -1e-12).all()
        assert cost[0] < cost[-1]
        active = cost > cost[0] + 1e-9  # above the least it can cost
        assert (cost.diff() > 0)[active[:-1]].all()
        assert active.any()


def test_it_says_truly_whether_a_shift_of_all_scores_changes_it(loss, scores):
    shifted = scores._replace(positive=scores.positive + 0.7, negative=scores.negative + 0.7)
    assert torch.allclose(loss(shifted), loss(scores)) == loss.shift_invariant


def test_a_fixed_correction_says_why(loss):
    correction = loss.correction
    assert correction.resolve(None) is correction.default
    assert correction.resolve(correction.default) is correction.default
    if correction.fixed:
        with pytest.raises(ModelError, match="correct_sampling = "):
            correction.resolve(not correction.default)
    else:
        assert correction.resolve(not correction.default) is not correction.default


@pytest.mark.parametrize(
    "options",
    [
        {"similarity": "dot"},
        {"similarity": "euclidean"},
        {"similarity": "cosine", "temperature": 0.5},
        {"similarity": "cosine", "correct_sampling": True},
        {"similarity": "cosine", "learn_temperature": True},
    ],
    ids=str,
)
def test_a_loss_on_a_raw_similarity_is_given_nothing_else(loss, options):
    if loss.needs_raw == "dot" and options == {"similarity": "dot"}:
        Objective(loss, **options)
    elif loss.needs_raw is not None:
        with pytest.raises(ModelError):
            Objective(loss, **options)
    elif loss.own_scale and "learn_temperature" in options:
        with pytest.raises(ModelError, match="change those units"):
            Objective(loss, **options)
    elif not loss.correction.fixed or "correct_sampling" not in options:
        Objective(loss, **options)
