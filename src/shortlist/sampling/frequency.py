"""How frequent is an item of a stream that cannot be counted beforehand?"""

from collections.abc import Mapping

import torch
from torch import Tensor

from shortlist.errors import ModelError


class StreamingFrequency:
    """Estimates each item's share of a stream from the intervals between its events.

    The method is that of Yi et al. 2019: an item that occurs every 50 events has a share of 1/50.
    Two arrays, indexed by a hash of the item, hold when it was last seen and a moving average of
    its interval. Memory is bounded for any number of items, and the estimate follows changing
    shares. Items in the same bucket look more frequent than they are; there are therefore several
    hashes, and the longest interval is used.

    The paper measures time in batches, so that an item once in each batch and one forty times in
    each batch look the same. Here time is measured in events.

    buckets: number of buckets of each hash, a power of two.
    hashes: number of hashes.
    rate: weight of a new interval in the moving average (0.01 in the paper). The first 1 / rate
    events of an item are averaged with equal weights.
    """

    def __init__(self, buckets: int = 2**18, hashes: int = 3, rate: float = 0.01) -> None:
        if buckets < 2 or buckets & (buckets - 1) or buckets > 2**31:
            raise ModelError(f"buckets must be a power of two from 2 to 2^31, got {buckets}")
        if hashes < 1:
            raise ModelError(f"hashes must be >= 1, got {hashes}")
        if not 0 < rate <= 1:
            raise ModelError(f"rate must be > 0 and <= 1, got {rate}")
        self.buckets, self.hashes, self.rate = buckets, hashes, rate
        self.events = 0
        constants = torch.Generator().manual_seed(0x5E1EC7)
        shape = (2, hashes, 1)
        drawn = torch.randint(-(2**63), 2**63 - 1, shape, generator=constants)
        self._factor, self._shift = drawn[0] | 1, drawn[1]  # [hashes, 1]; factors are odd
        places = hashes * buckets
        self._last_seen = torch.zeros(places, dtype=torch.int64)
        self._seen = torch.zeros(places, dtype=torch.int64)
        self._interval = torch.zeros(places, dtype=torch.float64)

    def to(self, device: torch.device) -> "StreamingFrequency":
        """Move the arrays to a device."""
        for name in ("_factor", "_shift", "_last_seen", "_seen", "_interval"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def update(self, ids: Tensor) -> None:
        """Update the estimate with the next events of the stream; ids: item rows, [B]."""
        self.events += len(ids)
        places, times = torch.unique(self._places(ids), return_counts=True)
        # c events since the last update count as c intervals of (time since then) / c.
        interval = (self.events - self._last_seen[places]) / times.double()
        seen = self._seen[places] + times
        weight = torch.maximum(times / seen.double(), 1 - (1 - self.rate) ** times.double())
        self._interval[places] += weight * (interval - self._interval[places])
        self._last_seen[places] = self.events
        self._seen[places] = seen

    def begin(self, counts: Tensor) -> None:
        """Set the estimate as if a stream with these counts had been seen; counts: [N + 1]."""
        known = counts.nonzero().squeeze(1)
        own = counts[known].double()
        count = torch.zeros_like(self._interval)
        for places in self._places(known):  # items of one bucket add up
            count.index_add_(0, places, own)
        filled = count > 0
        self.events = int(own.sum().ceil())
        self._seen = count.ceil().to(torch.int64)
        self._interval = torch.where(filled, own.sum() / count, 0)
        self._last_seen = torch.where(filled, self.events, 0)

    def of(self, ids: Tensor) -> Tensor:
        """Return the estimated share of each item row, float64, like ids.

        The share of an item that was never seen is 1 / (events + 1).
        """
        places = self._places(ids.flatten())  # [hashes, n]
        interval = self._interval[places]
        interval = interval.masked_fill(self._seen[places] == 0, self.events + 1.0)
        return 1 / interval.amax(dim=0).view(ids.shape)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the arrays and the number of events so far."""
        arrays = {name: getattr(self, f"_{name}") for name in ("last_seen", "seen", "interval")}
        return {**arrays, "events": torch.tensor(self.events)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        self.events = int(state["events"])
        for name in ("last_seen", "seen", "interval"):
            getattr(self, f"_{name}").copy_(state[name])

    def _places(self, ids: Tensor) -> Tensor:
        """Return the index of each item row [n] in the arrays for each hash, [hashes, n]."""
        bits = self.buckets.bit_length() - 1
        mixed = (ids.unsqueeze(0) + self._shift) * self._factor  # modulo 2^64
        # Rows are consecutive numbers: a single product would spread them unevenly.
        mixed = (mixed ^ (mixed >> 32)) * self._factor
        bucket = (mixed >> (64 - bits)) & (self.buckets - 1)  # the highest bits are mixed best
        first = torch.arange(self.hashes, device=ids.device).unsqueeze(1) * self.buckets
        return first + bucket
