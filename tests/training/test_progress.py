"""What a training shows on the screen."""

import io

from rich.console import Console

from shortlist.blending.blend import Blend
from shortlist.channels.counting.ease import EASE
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.training.progress import Bars, Quiet


class Heard(Quiet):
    """Keeps the stages it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, what: str) -> None:
        """Keep it."""
        self.stages.append(what)


def test_a_channel_says_that_it_is_fitted_and_on_how_much(split):
    heard = Heard()
    Blend({"linear": EASE(), "popular": Popular()}, method="calibrated").fit(split, progress=heard)
    events = len(split.training_data().training_log)
    assert heard.stages == [
        f"fitting EASE on {events:,} events",
        "asking the channels for the validation users",
    ]


def test_the_bar_names_the_stage_and_epochs_leave_a_line(split):
    out = io.StringIO()
    with Bars(Console(file=out, force_terminal=True, width=100)) as bars:
        EASE().fit(split, progress=bars)
        bars._bar.refresh()
        TwoTower(dim=4, epochs=1, history="none", user_id=True).fit(split, progress=bars)
    said = out.getvalue()
    assert "fitting EASE on" in said
    assert "validation" in said
