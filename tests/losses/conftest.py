import pytest
import torch

from shortlist.losses import Scores


@pytest.fixture
def one_row():
    """One training example: its positive score, its negatives, and which of them count."""

    def build(positive: float, negatives: list[float], valid: list[bool] | None = None) -> Scores:
        mask = [True] * len(negatives) if valid is None else valid
        return Scores(
            torch.tensor([positive], dtype=torch.float64),
            torch.tensor([negatives], dtype=torch.float64),
            torch.tensor([mask], dtype=torch.bool).view(1, len(negatives)),
        )

    return build
