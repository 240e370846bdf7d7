"""Which negatives are hard? Each file has one source; HARD finds them by name.

Hard negatives are a separate, weighted term of the objective beside the easy negatives of a
sampler. They are not corrected, because items selected by score or by another system have no
known sampling probability. They are never the only negatives.
"""

import inspect
from typing import Any

from shortlist.errors import ModelError, suggest_part
from shortlist.sampling.hard.base import HardSource, HardWorld, PoolChoice
from shortlist.sampling.hard.dropped import DroppedNegatives
from shortlist.sampling.hard.exposed import ExposedNegatives
from shortlist.sampling.hard.hardest import HardestNegatives
from shortlist.sampling.hard.mined import MinedNegatives
from shortlist.sampling.hard.semi_hard import SemiHardNegatives

HARD: dict[str, type[Any]] = {
    "hardest": HardestNegatives,
    "semi_hard": SemiHardNegatives,
    "mined": MinedNegatives,
    "dropped": DroppedNegatives,
    "exposed": ExposedNegatives,
}


def check_hard(name: str, **options: object) -> None:
    """Refuse an unknown source, and an option that it does not use.

    options: by name; None means that the option was not given. Errors: ModelError with the reason.
    """
    if name not in HARD:
        raise ModelError(f"unknown hard negatives '{name}'.{suggest_part(name, HARD)}")
    for option in sorted(option for option, value in options.items() if value is not None):
        users = [f"'{other}'" for other in HARD if option in _options_of(other)]
        if option in HARD[name].refuses:
            reason = HARD[name].refuses[option]
        elif option in _options_of(name) or not users:  # no source's: it belongs to the term
            continue
        else:
            reason = f"leave it out, it belongs to hard = {' or '.join(users)}"
        raise ModelError(f"hard = '{name}' does not use hard_{option}: {reason}")


def _options_of(name: str) -> set[str]:
    return set(inspect.signature(HARD[name].build).parameters)


def check_not_alone(sampler: str) -> None:
    """Refuse a source of hard negatives where a sampler is expected (ModelError)."""
    if sampler in HARD:
        raise ModelError(
            f"sampler = '{sampler}' is refused: {HARD[sampler].alone}. Keep an easy sampler, and "
            f"add these beside it with hard = '{sampler}'"
        )


def build_hard(name: str, world: HardWorld, **options: Any) -> PoolChoice | HardSource:
    """Return the source of that name.

    world: what the source is built from.
    options: parameters of the source; None keeps its default. Errors: ModelError.
    """
    check_hard(name, **options)
    given = {option: value for option, value in options.items() if value is not None}
    source: PoolChoice | HardSource = HARD[name].build(world, **given)
    return source
