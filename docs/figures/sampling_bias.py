"""How far is the gradient of a sampled softmax from that of the full one? Draws the figure.

A world of 2,000 items of Zipf popularity and 16 users; towers that have not learned it yet. For
each sampler and pool size, the gradient of the sampled loss less that of the full softmax on the
same positives, averaged over many pools: its length, in shares of the full gradient's, is the bias.
Samplers labelled exact have it, too: what they learn in the end is exact, not each step to it.

    python docs/figures/sampling_bias.py            # 2 minutes; needs matplotlib

writes docs/images/sampling_bias.png and sampling_bias.json.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.data.batches import Batch
from shortlist.data.ragged import Ragged
from shortlist.losses import SoftmaxLoss
from shortlist.sampling import NegativeSampler, build_sampler
from shortlist.training.objective import Objective

IMAGES = Path(__file__).parents[1] / "images"
ITEMS, USERS, WIDTH = 2000, 16, 4
ROWS = 256  # of a batch, where the batch is not the pool
SLOTS = (8, 32, 128, 512)

# Each builds a sampler of about that many slots a row, from the items' counts.
Build = Callable[[Tensor, int], NegativeSampler]
SAMPLERS: dict[str, Build] = {
    "uniform": lambda counts, slots: build_sampler("uniform", counts, slots, shared=False),
    "popularity": lambda counts, slots: build_sampler("popularity", counts, slots, shared=False),
    "in_batch": lambda counts, _: build_sampler("in_batch", counts),
    "in_batch_streaming": lambda counts, _: build_sampler("in_batch_streaming", counts),
    "memory": lambda counts, slots: build_sampler("memory", counts, slots - slots // 4),
    "mixed 1:1": lambda counts, slots: build_sampler("mixed", counts, slots // 2),
    "mixed 1:3": lambda counts, slots: build_sampler("mixed", counts, slots - slots // 4),
    "mixture": lambda counts, slots: build_sampler(
        "mixture",
        counts,
        slots,
        shared=False,
        mixture={"uniform": 1.0, "popularity": 1.0, "in_batch": 1.0},
    ),
    "catalogue": lambda counts, _: build_sampler("catalogue", counts),
}
SHARE_OF_BATCH = {"in_batch": 1.0, "in_batch_streaming": 1.0, "memory": 0.25}
SHARE_OF_BATCH |= {"mixed 1:1": 0.5, "mixed 1:3": 0.25}


class World(NamedTuple):
    """users [U, D] and items [N + 1, D]: what the towers give; taste: P(item | user), [U, N + 1].

    upto: running sum of the chance of each (user, item), [U·(N + 1)]; pull: what the full softmax
    puts in place of the positive, Σ p·item, [U, D].
    """

    users: Tensor
    items: Tensor
    taste: Tensor
    upto: Tensor
    pull: Tensor

    @property
    def share(self) -> Tensor:
        """How often each item row comes by in the log, [N + 1]."""
        return self.taste.mean(dim=0)


class Bias(NamedTuple):
    """bias: in shares of the full gradient; noise: the standard error it was found with.

    Successive pools of a memory overlap, so its noise is larger than that.
    """

    slots: int
    bias: float
    noise: float


def world(seed: int = 0) -> World:
    """Popular items are liked by all, the others by taste; the towers know half of the taste."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(USERS, WIDTH, generator=generator, dtype=torch.float64)
    items = torch.randn(ITEMS + 1, WIDTH, generator=generator, dtype=torch.float64)
    own = torch.randn(USERS, ITEMS + 1, generator=generator, dtype=torch.float64)
    items = items / math.sqrt(WIDTH)
    popularity = -torch.arange(1, ITEMS + 2, dtype=torch.float64).log()
    liking = popularity + 0.5 * users @ items.T + 0.5 * own
    liking[:, 0] = float("-inf")
    taste = liking.softmax(dim=1)
    scores = (users @ items.T).index_fill(1, torch.tensor([0]), float("-inf"))
    upto = (taste / USERS).flatten().cumsum(0)
    return World(users, items, taste, upto / upto[-1], scores.softmax(dim=1) @ items)


def bias_of(
    world: World, name: str, slots: int, pools: int, *, correct: bool = True, seed: int = 0
) -> Bias:
    """Measure one sampler with about `slots` negatives a row, over `pools` batches."""
    generator = torch.Generator().manual_seed(seed)
    sampler = SAMPLERS[name](world.share, slots)
    rows = int(SHARE_OF_BATCH[name] * slots) + 1 if name in SHARE_OF_BATCH else ROWS
    for size in {"memory": [rows] * 4, "in_batch_streaming": [1000] * 20}.get(name, []):
        sampler.sample(_batch(world, size, generator), generator)  # they begin with nothing
    differences, wanted = [], []
    for _ in range(pools):
        batch = _batch(world, rows, generator)
        away = world.pull[batch.users] - world.items[batch.positive]  # of cross-entropy
        wanted.append(away.T @ world.users[batch.users] / rows)
        found = _gradient(world, batch, sampler, generator, correct=correct)
        differences.append(found - wanted[-1])
    off = torch.stack(differences)  # [pools, D, D]
    length = torch.stack(wanted).mean(dim=0).norm().item()
    # |mean|² less what chance alone adds to it.
    variance = off.var(dim=0).sum().item() / pools
    squared = off.mean(dim=0).square().sum().item() - variance
    return Bias(slots, math.sqrt(max(squared, 0.0)) / length, math.sqrt(variance) / length)


def _batch(world: World, rows: int, generator: torch.Generator) -> Batch:
    chance = torch.rand(rows, generator=generator, dtype=torch.float64)
    place = torch.searchsorted(world.upto, chance, right=True)
    users, positive = place // (ITEMS + 1), place % (ITEMS + 1)
    none = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(rows + 1, dtype=torch.int64))
    return Batch(users, positive, torch.ones(rows), history=none)


def _gradient(
    world: World,
    batch: Batch,
    sampler: NegativeSampler,
    generator: torch.Generator,
    *,
    correct: bool,
) -> Tensor:
    """The gradient of the batch's mean loss by a layer [D, D] after the users' vectors."""
    layer = torch.eye(WIDTH, dtype=torch.float64, requires_grad=True)
    negatives = sampler.sample(batch, generator)
    loss = Objective(SoftmaxLoss(), "dot", correct_sampling=correct)(
        world.users[batch.users] @ layer.T,
        world.items[batch.positive],
        world.items[negatives.ids],
        positive_ids=batch.positive,
        positive_log_q=sampler.log_q(batch.positive, batch),
        negatives=negatives,
    )
    return torch.autograd.grad(loss.mean(), layer)[0]


def main() -> None:
    """Measure, draw, and write the figures beside the drawing."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    there = world()
    figure, axes = plt.subplots(figsize=(7.5, 5))
    record = []
    for name in SAMPLERS:
        if name == "catalogue":  # nothing is sampled: 0, which has no place on this axis
            record.append(_entry(name, [bias_of(there, name, ITEMS, 4)], correct=True))
            continue
        found = [bias_of(there, name, slots, _pools(name, slots)) for slots in SLOTS]
        record.append(_entry(name, found, correct=True))
        slots, bias, noise = zip(*found, strict=True)
        axes.errorbar(slots, bias, yerr=noise, marker="o", markersize=4, label=name, capsize=2)
    for name in ("in_batch", "popularity"):
        found = [bias_of(there, name, n, _pools(name, n), correct=False) for n in SLOTS]
        record.append(_entry(name, found, correct=False))
        slots, bias, _ = zip(*found, strict=True)
        axes.plot(slots, bias, "--", color="0.4", marker="." if name == "in_batch" else "x")
        axes.annotate(f"{name}, not corrected", (slots[-2], bias[-2] * 1.08), fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="negatives in a row's pool")
    axes.set(ylabel="bias, in shares of the full softmax's gradient")
    axes.set_title("Corrected gradients tend to the full softmax's (2,000 items)", fontsize=11)
    axes.legend(fontsize=8)
    axes.grid(which="both", alpha=0.3)
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / "sampling_bias.png", dpi=120, metadata={"Software": None})
    (IMAGES / "sampling_bias.json").write_text(json.dumps(record, indent=1) + "\n")


def _pools(name: str, slots: int) -> int:
    """More where the pool is the batch, and a batch is one pool for all its rows."""
    return (200 if slots < 500 else 100) * (5 if name in SHARE_OF_BATCH else 1)


def _entry(name: str, found: list[Bias], *, correct: bool) -> dict[str, object]:
    points = [
        {"slots": b.slots, "bias": round(b.bias, 4), "noise": round(b.noise, 4)} for b in found
    ]
    return {"sampler": name, "corrected": correct, "points": points}


if __name__ == "__main__":
    main()
