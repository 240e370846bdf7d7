"""Corrected gradients tend to the full softmax's as the pool grows, in a world of 2,000 items.

Measured by the script that draws the figure of the docs.
"""

import runpy
from functools import cache
from pathlib import Path

import pytest

from shortlist import sampling

SCRIPT = runpy.run_path(
    str(Path(__file__).parents[2] / "docs" / "figures" / "sampling_bias.py"), run_name="figure"
)
SAMPLERS = sorted(SCRIPT["SAMPLERS"].keys() - {"catalogue"})
FEW, MANY = 8, 128


@cache
def world():
    return SCRIPT["world"]()


@cache
def bias(name, slots, correct=True):
    pools = 30 if name not in SCRIPT["SHARE_OF_BATCH"] else 250 if slots == FEW else 120
    found = SCRIPT["bias_of"](world(), name, slots, pools, correct=correct)
    assert found.noise < 0.2
    return found.bias


def test_every_sampler_is_measured_and_three_mixtures_are():
    measured = {name.split()[0] for name in SCRIPT["SAMPLERS"]}
    assert measured == sampling.SAMPLERS.keys()
    assert len([name for name in SAMPLERS if name.startswith("mix")]) == 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_its_bias_falls_as_the_pool_grows(name):
    assert bias(name, FEW) > 0.3
    assert bias(name, MANY) < bias(name, FEW) / 2.5


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "uniform"])
def test_without_correction_it_would_stay(name):
    """Uniform draws need none in a softmax: what is subtracted is the same everywhere."""
    assert bias(name, MANY, correct=False) > 1.6 * bias(name, MANY)


def test_the_catalogue_is_the_full_softmax_itself():
    assert SCRIPT["bias_of"](world(), "catalogue", 1, 3).bias < 1e-6
