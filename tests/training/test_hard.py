"""The loss term of hard negatives: added, weighted, not bias-corrected, with gradients."""

import math

import pytest
import torch
from torch import nn

from shortlist.config import Training
from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.errors import ModelError
from shortlist.losses import LOSSES, build_loss
from shortlist.sampling.base import Negatives
from shortlist.sampling.hard import HARD
from shortlist.sampling.hard.base import HardWorld
from shortlist.sampling.hard.hardest import HardestNegatives
from shortlist.training.blocks import Encoders
from shortlist.training.hard import HardTerm, check_hard_options, hard_term_of
from shortlist.training.objective import Objective
from shortlist.training.presets import objective_of
from shortlist.training.trainer import Trainer

NONE = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


def one_row(positive, known=None):
    own = Ragged(torch.tensor([positive]), torch.tensor([0, 1]))
    return Batch(torch.tensor([1]), torch.tensor([positive]), torch.ones(1), NONE, known or own)


class Fixed:
    """A sampler that always gives the same pool, each slot with Q = 1/4."""

    def __init__(self, ids):
        self.ids = torch.tensor(ids)

    def sample(self, batch, generator):
        return Negatives.drawn(self.ids, self.log_q(self.ids, batch))

    def log_q(self, ids, batch):
        return torch.full(ids.shape, math.log(0.25))


class OneBatch:
    """The same batch, once an epoch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 1

    def epoch(self, generator):
        yield self.batch


class World(nn.Module):
    """One number an item and the query 1, so that the number is the score."""

    def __init__(self, numbers):
        super().__init__()
        self.items = nn.Parameter(torch.tensor(numbers).unsqueeze(1))
        self.encoded = []
        self.modes = []

    def encode(self, rows):
        self.encoded.append(rows.tolist())
        self.modes.append(self.training)
        return self.items[rows]


def trainer_of(world, batch, objective, hard, pool=(2, 3, 4)):
    return Trainer(
        world,
        Encoders(lambda b: torch.ones(len(b.users), 1), world.encode),
        objective,
        Fixed(list(pool)),
        OneBatch(batch),
        training=Training(learning_rate=0.1, epochs=1),
        hard=hard,
    )


def term_of(objective, name="hardest", world=None, **options):
    section = Training(hard=name, **options)
    world = world or HardWorld(torch.arange(1, 5), objective.similarity, {}, NONE)
    return hard_term_of(section, objective, world)


def objective(loss="softmax", temperature=0.5, **options):
    return Objective(build_loss(loss), "dot", temperature=temperature, **options)


NUMBERS = [0.0, 0.5, 0.8, -0.2, 0.1]  # item 2 is the hardest, above the positive 1


def loss_and_gradient(hard, easy=None, batch=None):
    world = World(NUMBERS)
    trainer = trainer_of(world, batch or one_row(1), easy or objective(), hard)
    loss = trainer._loss(batch or one_row(1))
    loss.backward()
    return loss.item(), world.items.grad.squeeze(1)


def test_the_loss_is_easy_plus_weight_times_hard_by_hand():
    easy = objective()
    found, _ = loss_and_gradient(term_of(easy, hard_weight=0.3), easy)
    logits = [number / 0.5 - math.log(0.25) for number in NUMBERS]  # corrected, as the sampler says
    by_hand = math.log(sum(map(math.exp, logits[1:]))) - logits[1]
    p, n = NUMBERS[1] / 0.5, NUMBERS[2] / 0.5  # not corrected: item 2 alone is hard
    by_hand += 0.3 * math.log1p(math.exp(n - p))
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_the_hard_term_moves_the_hard_item_and_its_positive_and_no_other():
    _, without = loss_and_gradient(None)
    easy = objective()
    _, with_it = loss_and_gradient(term_of(easy, hard_weight=1.0), easy)
    change = with_it - without
    assert change[2] > 0.1  # down the gradient, the hard item goes down
    assert change[1] < -0.1
    torch.testing.assert_close(change[[0, 3, 4]], torch.zeros(3))


def test_twice_the_weight_moves_twice_as_far():
    _, without = loss_and_gradient(None)
    changes = []
    for weight in (0.5, 1.0):
        easy = objective()
        changes.append(loss_and_gradient(term_of(easy, hard_weight=weight), easy)[1] - without)
    torch.testing.assert_close(2 * changes[0], changes[1])


@pytest.mark.parametrize(("share", "count"), [(None, 1), (0.01, 1), (0.5, 2), (1.0, 3), (5.0, 15)])
def test_the_share_is_of_the_easy_pool_and_at_least_one(share, count):
    term = term_of(objective(), hard_share=share)
    pool = Fixed([2, 3, 4]).sample(one_row(1), None)
    assert term._count(pool) == count
    if share is None:
        assert term._count(Fixed(list(range(1000))).sample(one_row(1), None)) == 10


def test_a_row_without_a_hard_negative_costs_what_it_cost_without_the_term():
    everything = Ragged(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 4]))
    for loss in ("softmax", "bce"):  # bce would pay for its positive again
        easy = objective(loss)
        plain, _ = loss_and_gradient(None, objective(loss))
        found, _ = loss_and_gradient(term_of(easy), easy, one_row(1, everything))
        assert found == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_trains_with_a_hard_term_or_says_why_not(loss):
    raw = {"similarity": "dot"} if loss == "squared" else {}  # it predicts a value, no angle
    section = Training(loss=loss, sampler="uniform", negatives=3, hard="hardest", **raw)
    easy = objective_of(section)
    if loss == "nce":
        with pytest.raises(ModelError, match=r"no known sampling probability.*nce"):
            check_hard_options(section, easy)
        return
    check_hard_options(section, easy)
    term = term_of(easy)
    world = World(NUMBERS)
    step = next(trainer_of(world, one_row(1), easy, term).epoch())
    assert math.isfinite(step.loss)
    assert not term.objective.correct_sampling


def test_both_terms_learn_one_temperature_and_a_bias_each():
    easy = objective("bce", learn_temperature=True)
    term = term_of(easy)
    assert term.objective.log_scale is easy.log_scale
    assert term.objective.bias is not easy.bias
    trainer = trainer_of(World(NUMBERS), one_row(1), easy, term)
    learned = trainer._optimizer.param_groups[1]["params"]
    assert [id(p) for p in learned] == [
        id(p) for p in (easy.log_scale, easy.bias, term.objective.bias)
    ]
    before = term.objective.temperature
    for _ in trainer.epoch():
        pass
    assert term.objective.temperature == easy.temperature != before


def test_each_distinct_item_is_encoded_once_a_step_whatever_the_source():
    lists = {"exposed": Ragged(torch.tensor([3, 5]), torch.tensor([0, 0, 2]))}
    for name in ("hardest", "mined", "exposed"):
        easy = objective()
        drawn = HardWorld(torch.arange(1, 6), "dot", lists, NONE)
        options = {"hard_ranks": (1, 4), "hard_ceiling": 1.0} if name == "mined" else {}
        term = term_of(easy, name, drawn, hard_share=1.0, **options)
        world = World([*NUMBERS, -0.9])
        trainer = trainer_of(world, one_row(1), easy, term, pool=(2, 3, 3, 4))
        list(trainer.epoch())
        step = world.encoded[-1]
        assert step == sorted(set(step)) == ([1, 2, 3, 4] if name == "hardest" else [1, 2, 3, 4, 5])
        assert len(world.encoded) == (2 if name == "mined" else 1)


def test_mined_vectors_are_taken_once_an_epoch_without_dropout_or_gradient():
    easy = objective()
    term = term_of(easy, "mined", hard_ranks=(1, 4))
    world = World(NUMBERS)
    trainer = trainer_of(world, one_row(1), easy, term)
    for _ in range(2):
        list(trainer.epoch())
    assert world.modes == [False, True, False, True]
    assert world.encoded[0] == world.encoded[2] == [1, 2, 3, 4]
    assert not term.source._vectors.requires_grad


def test_queries_of_several_interests_are_scored_by_their_best():
    term = HardTerm(HardestNegatives(), objective(correct_sampling=False))
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    vectors = torch.tensor([[0.3, 0.2], [0.0, 0.9]])
    batch = one_row(1)
    pool = Fixed([2, 3]).sample(batch, None)
    hard, chosen = term.choose(batch, queries, torch.tensor([[0.5, 0.0]]), pool, vectors)
    assert hard.ids.tolist() == [[3]]
    assert chosen.tolist() == [[[0.0, pytest.approx(0.9)]]]


@pytest.mark.parametrize("option", ["share", "weight", "margin", "ranks", "ceiling", "known"])
def test_an_option_without_a_source_is_refused(option):
    value = {"ranks": [1, 2], "known": False}.get(option, 0.5)
    section = Training.model_validate({f"hard_{option}": value})
    with pytest.raises(ModelError, match=f"hard_{option} does nothing without hard"):
        check_hard_options(section, objective())


@pytest.mark.parametrize("name", HARD)
def test_an_option_of_another_source_is_refused_before_any_data(name):
    options = {"hard_margin": 0.1, "hard_ranks": (1, 2), "hard_ceiling": 0.5}
    for option, value in options.items():
        section = Training.model_validate({"hard": name, option: value})
        if option.removeprefix("hard_") in HARD[name].refuses:
            with pytest.raises(ModelError, match=f"hard = '{name}' does not use {option}"):
                check_hard_options(section, objective())
        else:
            check_hard_options(section, objective())
