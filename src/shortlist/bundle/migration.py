"""How are settings and tensors of older formats converted? One function for each change.

For a format that cannot be converted, `load` names the version that can read it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shortlist.bundle.store import Manifest
from shortlist.linear.neighbours import Neighbours

Tensors = dict[str, dict[str, Tensor]]


def migrated(manifest: Manifest, states: Tensors) -> tuple[Mapping[str, Any], Tensors]:
    """Return settings and tensors in the current format."""
    settings = manifest.fields["settings"]
    if manifest.format <= 2:
        states = {
            file: _lists_of_neighbours(tensors)
            if tensors.keys() == {"neighbours", "similarities"}
            else tensors
            for file, tensors in states.items()
        }
    if manifest.format == 1 and "towers" in states:
        return _own_history_table(settings, states)
    return settings, states


def _own_history_table(
    settings: Mapping[str, Any], states: Tensors
) -> tuple[Mapping[str, Any], Tensors]:
    """Format 1: the pooling of histories had an item table of its own."""
    towers = dict(states["towers"])
    if "query.history.table.weight" not in towers:
        return settings, states
    towers["query.table.weight"] = towers.pop("query.history.table.weight")
    model = {**settings["model"], "shared_items": False}
    return {**settings, "model": model}, {**states, "towers": towers}


def _lists_of_neighbours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Formats 1 and 2: the neighbours of item-cf were a table [items + 1, N], padded with 0."""
    kept = Neighbours.of_table(tensors["neighbours"].numpy(), tensors["similarities"].numpy())
    return {
        "start": torch.from_numpy(kept.start),
        "neighbours": torch.from_numpy(kept.ids),
        "similarities": torch.from_numpy(kept.scores),
    }
