"""What every loss keeps to, run over the table LOSSES."""

import pytest
import torch

from shortlist.losses import LOSSES, Scores

pytestmark = pytest.mark.parametrize("loss", [make() for make in LOSSES.values()], ids=LOSSES)


@pytest.fixture
def scores() -> Scores:
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(6, generator=generator, dtype=torch.float64)
    negative = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    valid = torch.rand(6, 9, generator=generator) < 0.7
    assert valid.any(1).all()
    assert not valid.all()
    return Scores(positive, negative, valid)


def test_a_row_is_computed_from_that_row_alone(loss, scores):
    whole = loss(scores)
    assert whole.shape == (6,)
    for i in range(6):
        alone = Scores(*(part[i : i + 1] for part in scores))
        torch.testing.assert_close(loss(alone), whole[i : i + 1])


def test_the_order_of_the_negatives_means_nothing(loss, scores):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = Scores(scores.positive, scores.negative[:, order], scores.valid[:, order])
    torch.testing.assert_close(loss(shuffled), loss(scores))


@pytest.mark.parametrize("rubbish", [1e30, float("inf"), float("-inf"), float("nan")])
def test_a_masked_negative_costs_nothing_and_moves_nothing(loss, scores, rubbish):
    positive = scores.positive.clone().requires_grad_()
    negative = scores.negative.masked_fill(~scores.valid, rubbish).requires_grad_()
    dirty = loss(Scores(positive, negative, scores.valid))
    torch.testing.assert_close(dirty.detach(), loss(scores))
    dirty.sum().backward()
    assert positive.grad.isfinite().all()
    assert (negative.grad[~scores.valid] == 0).all()


def test_masking_a_negative_is_leaving_it_out(loss, scores):
    for i in range(6):
        kept = scores.negative[i : i + 1, scores.valid[i]]
        left = Scores(scores.positive[i : i + 1], kept, torch.ones_like(kept, dtype=torch.bool))
        torch.testing.assert_close(loss(left), loss(scores)[i : i + 1])


@pytest.mark.parametrize("negatives", [0, 3])
def test_without_a_valid_negative_only_a_pointwise_loss_costs(loss, negatives):
    positive = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    negative = torch.full((2, negatives), 5.0, dtype=torch.float64)
    rows = loss(Scores(positive, negative, torch.zeros(2, negatives, dtype=torch.bool)))
    rows.sum().backward()
    if loss.shift_invariant:
        wanted, slope = torch.zeros(2), torch.zeros(2)
    else:
        wanted, slope = torch.log1p(torch.exp(-positive)), -torch.sigmoid(-positive)
    torch.testing.assert_close(rows, wanted.double())
    torch.testing.assert_close(positive.grad, slope.double())


def test_scores_of_200_give_finite_float32_values_and_gradients(loss):
    for p, n in [(200.0, -200.0), (-200.0, 200.0), (200.0, 200.0), (-200.0, -200.0)]:
        positive = torch.full((2,), p, requires_grad=True)
        negative = torch.full((2, 4), n, requires_grad=True)
        rows = loss(Scores(positive, negative, torch.ones(2, 4, dtype=torch.bool)))
        rows.sum().backward()
        assert rows.dtype == torch.float32
        assert rows.isfinite().all()
        assert (rows >= 0).all()
        assert positive.grad.isfinite().all()
        assert negative.grad.isfinite().all()


def test_it_never_rises_as_the_positive_rises_nor_falls_as_a_negative_does(loss, scores):
    steps = torch.linspace(-10, 10, 81, dtype=torch.float64).unsqueeze(1)  # [81, 1]
    for i in range(6):
        negative, valid = scores.negative[i].expand(81, 9), scores.valid[i].expand(81, 9)
        by_positive = loss(Scores(steps.squeeze(1), negative, valid))
        assert (by_positive.diff() <= 1e-12).all()
        assert by_positive[0] > by_positive[-1]
        by_negative = loss(Scores(scores.positive[i].expand(81), negative + steps, valid))
        assert (by_negative.diff() >= -1e-12).all()
        assert by_negative[0] < by_negative[-1]


def test_it_says_truly_whether_a_shift_of_all_scores_changes_it(loss, scores):
    shifted = Scores(scores.positive + 0.7, scores.negative + 0.7, scores.valid)
    assert torch.allclose(loss(shifted), loss(scores)) == loss.shift_invariant


def test_a_fixed_correction_says_why(loss):
    correction = loss.correction
    assert correction.resolve(None) is correction.default
    assert correction.resolve(correction.default) is correction.default
    if not correction.fixed:
        assert correction.resolve(not correction.default) is not correction.default
