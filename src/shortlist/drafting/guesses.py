"""What is a guess: a key of the recipe, its value, the reason, and how far it can be trusted?"""

from dataclasses import dataclass
from typing import Any, Literal

Confidence = Literal["sure", "likely", "check"]


@dataclass(frozen=True)
class Guess:
    """One line of a drafted recipe. value: None says that the key is left out on purpose.

    confidence: "sure", names and values say the same; "likely", one of them does; "check", it is
    the best of several readings, and a person has to look.
    """

    key: str
    value: Any
    reason: str
    confidence: Confidence

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-safe object."""
        return {
            "key": self.key,
            "value": self.value,
            "reason": self.reason,
            "confidence": self.confidence,
        }
