"""No option is ignored: another value of any key acts, or the key is refused where it cannot act.

The keys, and the values to try, come from the fields of the sections, and the kinds from the
tables: a new key, or a new kind, is asked about by itself. What acts in some situation only has
that situation in SITUATIONS. The ordinary suite asks about every key of a plain retriever, and
beside each part about the keys of its FAMILY; `make options` asks about every key beside each part.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from unittest import mock

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from shortlist.asking.queries import Queries
from shortlist.channels.learned.base import Learner
from shortlist.channels.table import CHANNELS
from shortlist.config import Model, Training
from shortlist.config.parts import CHOICES, keys_of
from shortlist.data.dataset import Dataset, Split
from shortlist.data.schema import EventFeature, Feature, Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import ModelError, QueryError, ShortlistError
from shortlist.sections.base import Section

EVERYTHING = bool(os.environ.get("SHORTLIST_OPTIONS"))

TABLES = {key: choice.names for key, choice in CHOICES.items()}
"""The keys whose values name a part, each of which makes a kind of retriever to ask about."""

OBJECTIVE = ("similarity", "temperature", "correct_sampling", "mask_hits", "mask_known")
FAMILY = {
    "loss": ("loss", "learn_temperature", "precision", *keys_of("loss"), *OBJECTIVE),
    "sampler": ("sampler", "negatives", "shared", "batch_size", *keys_of("sampler"), *OBJECTIVE),
    "hard": ("mask_known", *(key for key in Training.model_fields if key.startswith("hard"))),
    "history": ("precision", "encode_rows", "weighted", *Model.model_fields),
}  # fmt: skip
"""The keys that a part is likely to read, or to make useless."""

GIVEN: dict[str, dict[str, Any]] = {
    "two-tower": {"dim": 4, "batch_size": 64, "epochs": 1},
    "item-to-item": {"dim": 4, "batch_size": 32, "epochs": 1, "session_gap": 1e6},
    "user-to-user": {"dim": 4, "batch_size": 16, "epochs": 1},
    "inverted": {"attribute": "tags"},
    "als": {"factors": 4, "iterations": 2},
}
"""What each kind is given here: what it needs, and what makes it quick."""

BESIDE: dict[Any, dict[str, Any]] = {
    "mined": {"hard_ranks": (1, 20)},  # the catalogue is small
    "memory": {"epochs": 2},  # an epoch never brings a user again
    "recent": {"half_life": 1e6},
    "tilted": {"low_pass": 0.1},  # without it there are no factors to ask about
    "swing": {"swing_users": 3},
}
"""What a value needs beside it to act in a world as small as this one, or to be accepted."""

VALUES: dict[str, list[Any]] = {
    "user_features": [[], ["age"]],
    "item_features": [[], ["price"]],
    "history_features": [["device"]],
    "context": [["device"]],
    "user_layers": [(6,)],
    "item_layers": [(6,)],
    "mixture": [{"uniform": 1.0, "popularity": 3.0}, {"in_batch": 1.0, "uniform": 1.0}],
    "hard_ranks": [(2, 9)],
    "hard_ceiling": [0.01],
    "clip": [1e-3],
    "warmup": [3],
    "monitor": ["recall@10", "ndcg@3"],
    "encode_rows": [7],
    "history_length": [2],
    "latest_items": [2],
    "most_items": [5],
    "neighbours": [2],
    "window": [2],
    "swing_users": [2],
    "session_gap": [1e4],
    "pair_window": [1],
    "patience": [1],
    "positives": [],  # these two are kinds of their own
    "hard": [],
    "negatives": [16],
    "hard_share": [0.3],
    "attribute": ["studio"],
    "segment": ["region"],
    "values": [("space",), ("crime",)],
    "half_life": [1e6],
    "recency": [2.0],
    "time_decay": [1e6],
    "list_length": [3],
    "factors": [6],
    "max_items": [10],
    "bm25_b": [0.2],
}
"""Values to try where a field does not tell one that must act."""

Patches = dict[str, Callable[[], Any]]


class Falling:
    """Figures of the validation rows that fall from one look to the next."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 1 / self.looks


SITUATIONS: dict[str, tuple[dict[str, Any], Patches]] = {
    "validate_every": ({"epochs": 3}, {}),
    "patience": ({"epochs": 6}, {"_measured": Falling}),
}
"""Other options, and methods of the retriever to put in place, with which a key can act at all."""

SAME = {
    "loss": "sampled_softmax",  # another name of softmax
    "precision": "auto",  # float32 where the processor has nothing better
    "optimizer": "dense",  # what auto comes to, for tables of less than 8 million numbers
}
"""Values that may do what the default does."""


class Kind(NamedTuple):
    """A channel, and the option that makes it this kind of one, if any."""

    channel: str
    key: str = ""
    value: Any = None

    def __str__(self) -> str:
        return f"{self.channel}, {self.key} = {self.value}" if self.key else self.channel

    @property
    def made(self) -> Any:
        """The class."""
        return CHANNELS[self.channel]

    @property
    def sections(self) -> dict[str, type[Section]]:
        """The section of each key that it may be given."""
        learns = issubclass(self.made, Learner)
        sections = (Model, Training) if learns else (self.made.options_type,)
        return {key: section for section in sections for key in section.model_fields}

    @property
    def options(self) -> dict[str, Any]:
        """What makes it this kind."""
        chosen = {self.key: self.value} if self.key else {}
        return GIVEN.get(self.channel, {}) | beside(self.value) | chosen

    @property
    def keys(self) -> list[str]:
        """The keys that are asked about."""
        asked = FAMILY.get(self.key, self.sections) if not EVERYTHING else self.sections
        return [key for key in self.sections if key in asked and key != self.key]


def beside(value: Any) -> dict[str, Any]:
    """What a value is given beside it."""
    return BESIDE.get(value, {}) if isinstance(value, str) else {}


def kinds() -> Iterator[Kind]:
    """Each channel: plain, and with each part of the tables, or with each of its own options."""
    for channel in CHANNELS:
        plain = Kind(channel)
        yield plain
        if issubclass(plain.made, Learner):
            for key, table in TABLES.items():
                yield from (Kind(channel, key, name) for name in table)
            continue
        for key, section in plain.sections.items():
            now = plain.options.get(key, section.model_fields[key].default)
            yield from (Kind(channel, key, value) for value in others(section, key, now))


@cache
def tiny() -> Split:
    """A log of 360 events, with all that any key may read."""
    schema = Schema(
        time="timestamp",
        weight="rating",
        click="clicked",
        user_features=(Feature("region", "categorical"), Feature("age", "numeric")),
        item_features=(
            Feature("tags", "multi-valued"),
            Feature("studio", "categorical"),
            Feature("price", "numeric"),
        ),
        event_features=(
            EventFeature("device", "categorical", known="before"),
            EventFeature("battery", "numeric", known="before"),
        ),
    )
    world = planted_world(users=40, items=40, events=360, seed=3)
    log = world.interactions.select("user_id", "item_id", "timestamp")
    moments = world.interactions.with_columns(
        device=pl.int_range(pl.len()) % 3, battery=pl.int_range(pl.len()) * 7 % 11
    )
    # Every other event was a click; as many items were shown, or dropped, to no use.
    idle = log.with_columns(pl.col("item_id").reverse()).gather_every(2)
    clicked = log.gather_every(2).with_columns(clicked=1)
    shown = pl.concat([clicked, idle.with_columns(clicked=0)])
    return Dataset.load(
        moments,
        users=world.users,
        items=world.items,
        impressions=shown,
        dropped=idle,
        schema=schema,
    ).split("leave-last-out")


def others(section: type[Section], key: str, now: Any) -> list[Any]:
    """Values of a key that its own field allows, other than the value `now`."""
    field = section.model_fields[key]
    if key in VALUES:
        found = VALUES[key]
    elif key in TABLES:
        found = list(TABLES[key])
    elif get_origin(field.annotation) is Literal:
        found = list(get_args(field.annotation))
    elif bool in _types(field.annotation):
        found = [True, False]
    else:
        found = _numbers(section, key)
    return [value for value in found if value != now]


def _numbers(section: type[Section], key: str) -> list[Any]:
    field = section.model_fields[key]
    shown = (*(field.examples or ()), field.default, section.without_log.get(key))
    known = [value for value in shown if type(value) in (int, float)]
    assert known, f"{key} is a new kind of key: give values to try in VALUES"
    first, number = known[0], type(known[0])
    allowed = TypeAdapter(Annotated[field.annotation, *field.metadata, ...])
    found = []
    for value in (first * 2, first + 1, first / 2, first + 0.5):
        try:
            found.append(allowed.validate_python(number(value), strict=True))
        except ValidationError:
            continue
    found = [value for value in found if value != field.default]
    assert found, f"{key}: none of the values tried is allowed; give some in VALUES"
    return found[:1] if field.default is not None else found[:2]


def _types(annotation: Any) -> set[Any]:
    inside = get_args(annotation)
    return set().union(*map(_types, inside)) if inside else {annotation}


class Heard:
    """Everything that a training tells its progress."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def start(self, *what: Any) -> None:
        self.said.append(what)

    advance = report = stage = start


def seen(kind: Kind, options: dict[str, Any], patches: Patches) -> dict[str, Any]:
    """All there is to see of a retriever: what its training says, its tensors and its answers."""
    compiled = []
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch("torch.compile", lambda encode, **_: (compiled.append(1), encode)[1])
        )
        for name, make in patches.items():
            stack.enter_context(mock.patch.object(kind.made, name, make()))
        heard = Heard()
        retriever = kind.made(**options).fit(tiny(), progress=heard)
    answers = [retriever.recommend(Queries(retriever.data.users.ids, before="validation"), 8)]
    ids = retriever.data.users if kind.channel == "user-to-user" else retriever.data.items
    with suppress(QueryError, AttributeError):  # not every channel knows what is similar
        answers.append(retriever.similar(ids.ids[:9], 5))
    tensors = {
        f"{file}.{name}": tensor.numpy().tobytes()
        for file, state in retriever.state()[1].items()
        for name, tensor in state.items()
    }
    return tensors | {
        "said": heard.said,
        "compiled": compiled,
        "answers": [(found.rows.tobytes(), found.scores.tobytes()) for found in answers],
    }


KNOWN: dict[tuple[str, str], dict[str, Any]] = {}
"""What kinds show in a situation, before any key is changed."""


def as_it_is(kind: Kind, situation: str) -> dict[str, Any]:
    """What a kind shows in a situation, seen once."""
    options, patches = SITUATIONS.get(situation, ({}, {}))
    if (known := (str(kind), situation)) not in KNOWN:
        KNOWN[known] = seen(kind, kind.options | options, patches)
    return KNOWN[known]


def named(key: str, value: Any, refusal: str) -> bool:
    """Whether a refusal names the key, or a value of it."""
    values = value if isinstance(value, tuple) else (value,)
    return key in refusal or any(str(part) in refusal for part in values)


def verdict(kind: Kind, key: str) -> str:
    """What is wrong with a key of this kind; nothing is the empty text."""
    section = kind.sections[key]
    situation = key if key in SITUATIONS else ""
    options, patches = SITUATIONS.get(situation, ({}, {}))
    options = kind.options | options
    before = as_it_is(kind, situation)
    default = section.model_fields[key].default
    idle, settled = [], False
    for value in others(section, key, options.get(key, default)):
        try:
            after = seen(kind, options | beside(value) | {key: value}, patches)
        except ShortlistError as refusal:
            if not named(key, value, str(refusal)):
                return f"{key} = {value!r} is refused, and not by name: {refusal}"
            settled = True
            continue
        if after != before:
            settled = True
        elif key not in SAME or SAME[key] != value:
            idle.append(value)
    # An unset key may be set to what it comes to; a default is a value, and all others must act.
    if idle and not (settled and default is None):
        return f"{key} = {idle[0]!r} is accepted and changes nothing"
    return ""


@pytest.mark.parametrize("kind", list(kinds()), ids=str)
def test_another_value_of_each_key_acts_or_the_key_is_refused(kind):
    refused = ""
    try:
        as_it_is(kind, "")
    except ShortlistError as refusal:
        refused = str(refusal)
    if refused:  # by name, and not because of something else
        assert named(kind.key, kind.value, refused)
        return
    assert not "; ".join(filter(None, (verdict(kind, key) for key in kind.keys)))


@pytest.mark.parametrize(
    ("channel", "options", "reason"),
    [
        ("item-cf", {"recency": 2.0, "latest_items": 1}, "recency does nothing with latest_items"),
        ("graph-filter", {"low_pass": 0.0, "factors": 8}, "factors does nothing with filter"),
        ("user-to-user", {"mask_hits": True}, "mask_hits does nothing .* holds each user once"),
        (
            "two-tower",
            {"sampler": "catalogue", "correct_sampling": True},
            "'catalogue' does not use correct_sampling",
        ),
        (
            "two-tower",
            {"sampler": "catalogue", "correct_positives": False},
            "'catalogue' does not use correct_positives",
        ),
    ],
)
def test_what_does_nothing_is_refused_when_given_and_read_from_older_bundles(
    channel, options, reason
):
    kind, given = CHANNELS[channel], GIVEN.get(channel, {})
    with pytest.raises(ModelError, match=reason):
        kind(**given | options)
    fitted = kind(**given).fit(tiny())
    settings, states = fitted.state()
    for section in ("options", "model", "training"):
        settings[section] = settings.get(section, {}) | {
            key: value for key, value in options.items() if key in settings.get(section, {})
        }
    loaded = kind.from_state(fitted.data, settings, states)
    users = fitted.data.users.ids[:5]
    assert len(loaded.recommend(users, 3)) == len(fitted.recommend(users, 3))


LEARNERS = [name for name, kind in CHANNELS.items() if issubclass(kind, Learner)]


def test_every_key_of_model_and_training_is_read_by_some_retriever_and_all_that_is_read_is_a_key():
    keys = {*Model.model_fields, *Training.model_fields}
    assert set().union(*(CHANNELS[name].reads for name in LEARNERS)) == keys


@pytest.mark.parametrize("name", LEARNERS)
def test_a_key_that_a_retriever_does_not_read_is_refused_by_name(name):
    kind = Kind(name)
    for key in kind.sections.keys() - kind.made.reads:
        section = kind.sections[key]
        now = section.model_fields[key].default
        tried = others(section, key, now) or section.model_fields[key].examples
        assert tried, key
        for value in tried:
            if value in ([], ()):
                continue  # nothing of it
            with pytest.raises(ModelError, match=key):
                kind.made(**kind.options | {key: value})
