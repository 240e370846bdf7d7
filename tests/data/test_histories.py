"""The stored events of users: those of a log before each cut, and newer ones after them."""

import numpy as np
import torch

from shortlist.data.histories import Events, LoggedHistories
from shortlist.data.ragged import Ragged


def of(events, column, user):
    start, stop = events.items.offsets[user : user + 2].tolist()
    return getattr(events, column)[start:stop].tolist()


def test_a_log_gives_what_was_known_before_each_cut(split):
    log = split.training_data("train").log
    users = torch.tensor([7, 0, 3])
    for cut in ("validation", "test", "end"):
        found = LoggedHistories(log).latest(users, cut, timed=True)
        known = log.before(cut)
        for place, user in enumerate(users.tolist()):
            mine = known.user == user
            start, stop = found.items.offsets[place : place + 2].tolist()
            assert found.items.values[start:stop].tolist() == known.item[mine].tolist()
            assert of(found, "weight", place) == known.weight[mine].tolist()
            assert of(found, "time", place) == known.time[mine].tolist()


def test_what_is_appended_stands_last_and_is_known_at_the_end_alone(split):
    log = split.training_data("train").log
    users = torch.tensor([3, 9])
    came = Events(Ragged(torch.tensor([5, 6, 5]), torch.tensor([0, 2, 3])))
    before, store = LoggedHistories(log), LoggedHistories(log).append(users, came)
    every = torch.arange(log.users)
    old, new = (one.latest(every, timed=True) for one in (before, store))
    for user in every.tolist():
        added = {3: [5, 6], 9: [5]}.get(user, [])
        start, stop = new.items.offsets[user : user + 2].tolist()
        first, last = old.items.offsets[user : user + 2].tolist()
        assert new.items.values[start:stop].tolist() == [
            *old.items.values[first:last].tolist(),
            *added,
        ]
        assert of(new, "weight", user)[last - first :] == [1.0] * len(added)
        assert of(new, "time", user)[last - first :] == [log.time.max()] * len(added)
    cut = store.latest(every, "test")
    assert torch.equal(cut.items.values, before.latest(every, "test").items.values)
    assert len(log) == len(store.log) - 3
    assert (np.diff(store.log.user) >= 0).all()
