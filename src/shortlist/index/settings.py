"""Which settings does an index have? They are the parameters of its class, with type and range."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field, ValidationError, create_model

from shortlist.errors import ModelError, suggest
from shortlist.sections.base import Section
from shortlist.sections.faults import explain

Choices = Mapping[str, Sequence[Any]]
"""Values that tuning tries, by setting."""

Refine = Annotated[
    float,
    Field(ge=1, le=1000, description="Candidates scored again in float32, per item asked for."),
]
"""Type of the setting `refine`, shared by the indexes that have it."""

Links = Annotated[
    int,
    Field(ge=2, le=128, description="Links per vector; the lowest level has twice as many."),
]
"""Type of the setting `m` of a graph."""

BuildBeam = Annotated[int, Field(ge=4, le=10_000, description="Beam width while building.")]
"""Type of the setting `ef_construction` of a graph."""


@cache
def settings_of(kind: type) -> type[Section]:
    """Return the settings of an index class as a section: its parameters except the similarity.

    >>> from shortlist.index.annoy import AnnoyForest
    >>> settings_of(AnnoyForest).model_fields["trees"].description
    'Trees in the forest.'
    """
    parameters = list(inspect.signature(kind, eval_str=True).parameters.values())[1:]
    fields: dict[str, Any] = {
        one.name: (
            Any if one.annotation is one.empty else one.annotation,
            ... if one.default is one.empty else one.default,
        )
        for one in parameters
    }
    return create_model(kind.__name__, __base__=Section, **fields)


def undeclared(kind: type) -> list[str]:
    """Return the settings of an index class that lack a description or a default."""
    fields = settings_of(kind).model_fields.items()
    return [name for name, field in fields if field.description is None or field.is_required()]


def check_settings(kind: type, given: Mapping[str, Any]) -> None:
    """Raise ModelError for a setting that the index does not have or a value out of range."""
    section = settings_of(kind)
    for name in given:
        if name not in section.model_fields:
            known = section.model_fields
            cure = suggest(name, known) if known else " It has none."
            raise ModelError(f"the index {kind.__name__} has no setting {name!r}.{cure}")
    try:
        section.model_validate(dict(given))
    except ValidationError as error:
        raise ModelError(explain(error.errors(include_url=False)[0], {})) from error


def grid_of(kind: type) -> Choices:
    """Return the values that tuning tries by default, by setting."""
    grid: Choices = getattr(kind, "grid", {})
    return grid


def late_settings(kind: type) -> tuple[str, ...]:
    """Return the settings that apply at search time, so that they can change after the build."""
    late = (*getattr(kind, "search_settings", ()), "refine")
    return tuple(name for name in late if name in settings_of(kind).model_fields)
