"""What is a guess? A key of the recipe, its value, the reason, and how certain it is."""

from dataclasses import dataclass
from typing import Any, Literal

Confidence = Literal["sure", "likely", "check"]


@dataclass(frozen=True)
class Guess:
    """One line of a drafted recipe.

    key: section and key, such as "data.time".
    value: None leaves the key out on purpose.
    reason: what the guess is based on.
    confidence: "sure" if name and values agree, "likely" if one of them decides, and "check" for
        the best of several readings, which a person should check.
    """

    key: str
    value: Any
    reason: str
    confidence: Confidence

    def to_dict(self) -> dict[str, Any]:
        """Return the guess as one JSON-safe object."""
        return {
            "key": self.key,
            "value": self.value,
            "reason": self.reason,
            "confidence": self.confidence,
        }
