"""Which negatives are hard? One source a file, found by name in HARD.

They supplement the easy negatives of a sampler as a term of their own: weighted, and not
corrected, because what was selected by score or by another system has no known sampling
probability. None of them can stand alone.
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
    """Refuse an unknown source, and an option (None: not given) it cannot use, with the reason."""
    if name not in HARD:
        raise ModelError(f"unknown hard negatives '{name}'.{suggest_part(name, HARD)}")
    for option in sorted(option for option, value in options.items() if value is not None):
        users = [f"'{other}'" for other in HARD if option in _options_of(other)]
        if option in HARD[name].refuses:
            reason = HARD[name].refuses[option]
        elif option in _options_of(name) or not users:  # the latter: of the term, not its source
            continue
        else:
            reason = f"leave it out, it belongs to hard = {' or '.join(users)}"
        raise ModelError(f"hard = '{name}' does not use hard_{option}: {reason}")


def _options_of(name: str) -> set[str]:
    return set(inspect.signature(HARD[name].build).parameters)


def check_not_alone(sampler: str) -> None:
    """Refuse hard negatives as the only negatives, with the reason."""
    if sampler in HARD:
        raise ModelError(
            f"sampler = '{sampler}' is refused: {HARD[sampler].alone}. Keep an easy sampler, and "
            f"add these beside it with hard = '{sampler}'"
        )


def build_hard(name: str, world: HardWorld, **options: Any) -> PoolChoice | HardSource:
    """Return the source of that name; an option left at None takes its default."""
    check_hard(name, **options)
    given = {option: value for option, value in options.items() if value is not None}
    source: PoolChoice | HardSource = HARD[name].build(world, **given)
    return source
