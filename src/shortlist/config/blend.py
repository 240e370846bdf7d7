"""[blend] of a recipe: how are the lists of several channels merged?"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from shortlist.sections.base import (
    Count,
    Names,
    Positive,
    Section,
    Text,
    as_tuple,
)


class Segment(Section):
    """A group of queries with quotas of its own, in place of those of [blend]."""

    history_below: Count | None = Field(
        default=None, description="Queries of users with fewer known events than this."
    )
    feature: Text | None = Field(
        default=None, description="Column of data.users that decides who is in the segment."
    )
    values: Names | None = Field(
        default=None, description="Values of that column, as text, that belong to the segment."
    )
    quotas: dict[Text, Annotated[int, Field(ge=0, lt=2**31)]] = Field(
        description="Number of slots of each channel, as in [blend].", examples=[{"popular": 50}]
    )

    @model_validator(mode="after")
    def _says_whom(self) -> Self:
        if (self.feature is None) != (self.values is None):
            raise ValueError("feature and values need each other.")
        if (self.feature is None) == (self.history_below is None):
            raise ValueError("needs history_below, or feature with values: one of the two.")
        return self


class Blend(Section):
    """How the lists of several [channels] are merged into one."""

    method: Literal["quotas", "reciprocal-rank", "weighted", "calibrated"] = Field(
        default="quotas",
        description='"quotas": a number of slots for each channel, interleaved; "reciprocal-rank": '
        'the sum of 1 / (rank_constant + rank); "weighted": the sum of weight x score, where the '
        'scores of each list are scaled to 0..1; "calibrated": the probability of a hit at each '
        "rank of each channel, measured on the validation rows.",
    )
    quotas: dict[Text, Annotated[int, Field(ge=0, lt=2**31)]] | None = Field(
        default=None,
        description="Number of slots of each channel in a list as long as their sum; other list "
        "lengths are shared in proportion. Unset: planned on the validation rows.",
        examples=[{"cf": 60, "popular": 40}],
    )
    size: Count | None = Field(
        default=None,
        description="Length of the list for which quotas are planned, and to which they sum. "
        "Unset: the sum of quotas, or 100.",
        examples=[100],
    )
    weights: dict[Text, Positive] | None = Field(
        default=None,
        description="reciprocal-rank, weighted: the weight of each channel. Unset: 1.",
        examples=[{"cf": 1.0, "popular": 0.5}],
    )
    rank_constant: Positive | None = Field(
        default=None,
        description="reciprocal-rank: the constant added to each rank. Unset: 60.",
        examples=[60.0],
    )
    latency: Positive | None = Field(
        default=None,
        description="Largest time per query, in microseconds, of the planned channels together, as "
        "measured during planning. Unset: no limit.",
        examples=[500.0],
    )
    segments: Annotated[tuple[Segment, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="Other quotas for some queries; the first segment that matches is used.",
        examples=[[{"history_below": 5, "quotas": {"popular": 50, "cf": 50}}]],
    )
    fallback: Names = Field(
        default=(),
        description="Channels that are used only to fill lists that are too short, in this order; "
        "popular items come after them.",
        examples=[["popular"]],
    )

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        """Refuse keys that this method does not read."""
        readers = {
            "quotas": ("quotas",),
            "size": ("quotas",),
            "latency": ("quotas",),
            "segments": ("quotas",),
            "weights": ("reciprocal-rank", "weighted"),
            "rank_constant": ("reciprocal-rank",),
        }
        for key, methods in readers.items():
            if getattr(self, key) not in (None, ()) and self.method not in methods:
                raise ValueError(f"{key} does nothing with method = '{self.method}': leave it out.")
        if self.latency is not None and self.quotas is not None:
            raise ValueError("latency is for quotas that are planned: give latency or quotas.")
        for quotas in (self.quotas, *(segment.quotas for segment in self.segments)):
            if quotas is None:
                continue
            if sum(quotas.values()) == 0:
                raise ValueError("quotas must give at least one slot.")
            if self.size is not None and sum(quotas.values()) != self.size:
                raise ValueError(
                    f"quotas must sum to size = {self.size}, {quotas} is {sum(quotas.values())}."
                )
        return self
