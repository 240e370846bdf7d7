"""WHAT IS WRONG: mistakes before and after training, with their evidence and cure."""

from shortlist.doctor import (
    data,
    events,
    features,
    history,
    index,
    leaks,
    objective,
    sampling,
    training,
    vectors,
)
from shortlist.doctor.base import SEVERITIES, Check, Finding, Subject
from shortlist.doctor.watch import TrainingWatch

FAMILIES = (training, objective, sampling, leaks, history, data, events, features, vectors, index)

CHECKS: dict[str, Check] = {found.code: found for family in FAMILIES for found in family.CHECKS}
"""Every check, by the code of its finding."""


def examine(subject: Subject) -> list[Finding]:
    """Run every check whose parts the subject has; findings come by severity, errors first."""
    found = [finding for look in CHECKS.values() if (finding := look(subject)) is not None]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


__all__ = ["CHECKS", "SEVERITIES", "Check", "Finding", "Subject", "TrainingWatch", "examine"]
