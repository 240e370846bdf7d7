"""The alias table holds exactly the distribution, and never draws a row of probability 0."""

import numpy as np
import pytest
import torch

from shortlist.sampling.alias import AliasTable


def law(table):
    """The chance of each row, summed over the cells."""
    n = len(table.other)
    chance = table.threshold.numpy().copy()
    np.add.at(chance, table.other.numpy(), 1 - table.threshold.numpy())
    return chance / n


@pytest.mark.parametrize("seed", range(20))
def test_the_cells_hold_exactly_the_law(seed):
    random = np.random.default_rng(seed)
    weights = random.zipf(1.3, size=int(random.integers(1, 300))).clip(max=10**9).astype(float)
    weights[random.random(len(weights)) < 0.2] = 0
    weights[0] += 1
    table = AliasTable.of(torch.from_numpy(weights))
    np.testing.assert_allclose(law(table), weights / weights.sum(), atol=1e-12)
    assert (law(table)[weights == 0] == 0).all()


def test_every_place_of_the_unit_interval_gives_a_row_of_some_chance():
    table = AliasTable.of(torch.tensor([0.0, 3.0, 0.0, 1.0]))
    chance = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]
    rows = table.rows(chance)
    assert torch.bincount(rows, minlength=4).tolist() == [0, 3000, 0, 1000]
    assert table.rows(torch.tensor([np.nextafter(1.0, 0.0)]))[0] in (1, 3)
