"""Do the options of a blend name channels that exist?"""

from collections.abc import Mapping
from typing import Any

from shortlist.config.blend import Blend as BlendOptions
from shortlist.errors import ModelError, suggest


def check_channels(options: BlendOptions, names: Mapping[str, Any]) -> None:
    """Refuse unknown channel names, and channels that would never be asked. Errors: ModelError."""
    asked: dict[str, Mapping[str, Any]] = {
        "blend.quotas": options.quotas or {},
        "blend.weights": options.weights or {},
        "blend.fallback": dict.fromkeys(options.fallback),
        **{
            f"blend.segments[{number}].quotas": segment.quotas
            for number, segment in enumerate(options.segments)
        },
    }
    for where, given in asked.items():
        for name in given:
            if name not in names:
                raise ModelError(f"{where}: there is no channel '{name}'.{suggest(name, names)}")
            if where != "blend.fallback" and name in options.fallback:
                raise ModelError(f"{where}: '{name}' is a fallback, which has no slots of its own")
    if set(options.fallback) == set(names):
        raise ModelError("blend.fallback names every channel: one must be asked first")
    if options.quotas is not None:
        given_slots = set(options.quotas) | {n for s in options.segments for n in s.quotas}
        idle = [name for name in names if name not in {*given_slots, *options.fallback}]
        if idle:
            raise ModelError(
                f"blend.quotas gives the channel '{idle[0]}' no slot: name it (0 is allowed), or "
                "remove the channel"
            )
