"""Can the objective learn at all, and does it compute the documented formula?"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from shortlist.doctor.base import Check, Subject, check, generator
from shortlist.errors import ModelError
from shortlist.losses import HingeLoss, Scores, SoftmaxLoss
from shortlist.sampling.base import Negatives
from shortlist.similarity import pair_score, score
from shortlist.training.objective import Objective

WIDTH = 8


class Floor(NamedTuple):
    """The smallest loss of a row on a bounded similarity.

    best: the loss with the positive at the query and the negatives opposite.
    undecided: the loss if all scores are equal.
    negatives: the number of negatives.
    """

    best: float
    undecided: float
    negatives: int


def floor_of(subject: Subject) -> Floor | None:
    """Measure the smallest loss of the objective on cosines, learned bias included; else None.

    Without data the number of negatives follows from the recipe.
    """
    objective = subject.objective
    if objective.similarity != "cosine" or objective.log_scale is not None:
        return None
    count = subject.negatives_a_row if "data" in subject.given else subject.training.batch_size - 1
    count = max(count, 1)
    query = torch.nn.functional.one_hot(torch.tensor([0]), WIDTH).float()
    side = torch.nn.functional.one_hot(torch.tensor([1]), WIDTH).float()
    best = _best_loss(objective, query, query, -query.expand(count, -1))
    undecided = _best_loss(objective, query, side, side.expand(count, -1))
    return Floor(best, undecided, count)


def _best_loss(objective: Objective, query: Tensor, positive: Tensor, pool: Tensor) -> float:
    """Return the loss of one row, minimised over the bias if the objective learns one."""
    biases = [0.0] if objective.bias is None else torch.arange(-20, 20.5, 0.5).tolist()
    zeros = torch.zeros(len(pool))
    negatives = Negatives.drawn(torch.arange(2, 2 + len(pool)), zeros)
    found = math.inf
    before = None if objective.bias is None else objective.bias.detach().clone()
    with torch.no_grad():
        for bias in biases:
            if objective.bias is not None:
                objective.bias.fill_(bias)
            loss = objective(
                query,
                positive,
                pool,
                positive_ids=torch.tensor([1]),
                positive_log_q=torch.zeros(1),
                negatives=negatives,
            )
            found = min(found, float(loss[0]))
        if objective.bias is not None and before is not None:
            objective.bias.copy_(before)
    return found


@check(
    "cosine-softmax-unscaled",
    "error",
    "training",
    cure="Set training.temperature to about 0.1 (0.05 to 0.2), or similarity = 'dot'.",
)
def cosine_softmax_unscaled(subject: Subject) -> str | None:
    """The softmax over cosines has no small temperature: even with perfect vectors the positive
    stays improbable, so training stalls.
    """
    floor = floor_of(subject)
    if floor is None or not isinstance(subject.objective.loss, SoftmaxLoss):
        return None
    probability = math.exp(-floor.best)
    if subject.objective.temperature < 1 and probability >= 0.5:
        return None
    return (
        f"temperature {subject.objective.temperature:g}, N = {floor.negatives:,} negatives: the "
        f"loss cannot fall below log(1 + N exp(-2/temperature)) = {floor.best:.2f}, and the "
        f"positive's probability cannot exceed {probability:.2g}"
    )


@check(
    "bce-unscaled-cosine",
    "error",
    "training",
    cure="Set training.temperature to about 0.1, or similarity = 'dot'.",
)
def bce_unscaled_cosine(subject: Subject) -> str | None:
    """Binary cross-entropy is applied to an unscaled cosine: sigmoid(cosine) only ranges from .27
    to .73, so no pair can be learned well.
    """
    objective = subject.objective
    if objective.bias is None or objective.temperature < 1:
        return None
    floor = floor_of(subject)
    if floor is None or floor.best < 0.1 * floor.undecided:
        return None
    pair = math.log1p(math.exp(-1 / objective.temperature))
    return (
        f"temperature {objective.temperature:g}: a pair costs at least {pair:.5f} however well it "
        f"is learned, and a row with {floor.negatives:,} negatives at least {floor.best:.2f} with "
        f"the best bias, of {floor.undecided:.2f} with nothing learned"
    )


@check(
    "temperature-too-high",
    "warning",
    "training",
    cure="Lower training.temperature (about 0.1 for a cosine), or raise training.scale.",
)
def temperature_too_high(subject: Subject) -> str | None:
    """The temperature is too high for this loss: even with perfect vectors a tenth of the initial
    loss or more remains.
    """
    if _is_hinge(subject) or any(
        other.look(subject) for other in (cosine_softmax_unscaled, bce_unscaled_cosine)
    ):
        return None
    floor = floor_of(subject)
    if floor is None or floor.best < 0.1 * floor.undecided:
        return None
    return (
        f"temperature {subject.objective.temperature:g}: perfect vectors still cost "
        f"{floor.best:.3g}, {floor.best / floor.undecided:.0%} of the {floor.undecided:.3g} with "
        "nothing learned"
    )


@check(
    "temperature-too-low",
    "warning",
    "training",
    cure="Raise training.temperature to about 0.05 to 0.2.",
)
def temperature_too_low(subject: Subject) -> str | None:
    """The temperature is so low that only the hardest negative of a row has a gradient, and that
    gradient is huge.
    """
    objective = subject.objective
    if objective.similarity != "cosine" or objective.temperature >= 0.01:
        return None
    return (
        f"temperature {objective.temperature:g}: a difference of 0.01 between two cosines is a "
        f"factor of exp({0.01 / objective.temperature:.3g}), and scores run to "
        f"{1 / objective.temperature:,.0f}"
    )


@check(
    "margin-out-of-reach",
    "error",
    "training",
    cure="Set training.margin to 0.1 to 0.3 for a cosine, where no gap exceeds 2/temperature.",
)
def margin_out_of_reach(subject: Subject) -> str | None:
    """The margin is wider than any two scores can be apart: the loss cannot become 0."""
    floor = floor_of(subject)
    loss = subject.objective.loss
    if not isinstance(loss, HingeLoss) or floor is None or floor.best <= 0:
        return None
    return (
        f"margin {loss.margin:g}, widest gap "
        f"{2 / subject.objective.temperature:g}: the loss cannot fall below {floor.best:.3g}"
    )


def _is_hinge(subject: Subject) -> bool:
    return isinstance(subject.objective.loss, HingeLoss)


@check(
    "correction-unfit",
    "error",
    "training",
    cure="Leave training.correct_sampling out, or choose loss = 'softmax' or 'bpr'.",
)
def correction_unfit(subject: Subject) -> str | None:
    """The sampling correction is on for a loss that cannot use it."""
    objective = subject.objective
    try:
        objective.loss.correction.resolve(objective.correct_sampling)
    except ModelError as error:
        return str(error)
    return None


Formula = Callable[[Tensor, Tensor | float, float], Tensor]

WRONG_FORMULAS: Mapping[str, tuple[str, Formula]] = {
    "logq-inside-temperature": ("(s - log Q)/τ", lambda s, q, tau: (s - q) / tau),
    "logq-wrong-sign": ("s/τ + log Q", lambda s, q, tau: s / tau + q),
    "logq-ignored": ("s/τ", lambda s, q, tau: s / tau),  # noqa: ARG005
    "temperature-ignored": ("s - log Q", lambda s, q, tau: s - q),  # noqa: ARG005
    "temperature-twice": ("s/τ² - log Q", lambda s, q, tau: s / tau**2 - q),
}


class Probe(NamedTuple):
    """The losses of an objective on random vectors, [B], and those of each formula by its code."""

    given: Tensor
    by_formula: Mapping[str, Tensor]


def trial(objective: Objective) -> Probe:
    """Run an objective on random vectors and log Q, and compute each formula for comparison."""
    random = generator()
    rows, slots = 6, 5
    queries, positives = (torch.randn(rows, WIDTH, generator=random) for _ in range(2))
    pool = torch.randn(slots, WIDTH, generator=random)
    log_q = torch.randn(slots, generator=random)
    positive_log_q = torch.randn(rows, generator=random)
    negatives = Negatives.drawn(torch.arange(rows + 1, rows + 1 + slots), log_q)
    valid = torch.ones(rows, slots, dtype=torch.bool)
    on = float(objective.correct_sampling)
    own_log_q = on * float(objective.correct_positives) * positive_log_q
    bias = 0.0 if objective.bias is None else objective.bias.detach()

    def by(formula: Formula, positive_q: Tensor | float = own_log_q) -> Tensor:
        p = formula(
            pair_score(queries, positives, objective.similarity), positive_q, objective.temperature
        )
        n = formula(score(queries, pool, objective.similarity), on * log_q, objective.temperature)
        return objective.loss(Scores(p + bias, n + bias, valid, positive_log_q.exp()))

    with torch.no_grad():
        given = objective(
            queries,
            positives,
            pool,
            positive_ids=torch.arange(1, rows + 1),
            positive_log_q=positive_log_q,
            negatives=negatives,
        )
        formulas = {"right": by(_right)}
        for code, (_, formula) in WRONG_FORMULAS.items():
            formulas[code] = by(formula)
        formulas["positive-uncorrected"] = by(_right, 0.0)
    return Probe(given, formulas)


def _right(scores: Tensor, log_q: Tensor | float, temperature: float) -> Tensor:
    return scores / temperature - log_q


def diagnosis(objective: Objective) -> tuple[str, float] | None:
    """Return the code of the wrong formula an objective follows and its error; None if right."""
    given, formulas = trial(objective)
    if torch.allclose(given, formulas["right"], rtol=1e-3, atol=1e-5):
        return None
    off = float((given - formulas["right"]).abs().max())
    for code, value in formulas.items():
        if torch.allclose(given, value, rtol=1e-3, atol=1e-5):
            return code, off
    return "objective-differs", off


def _formula_check(code: str, mistake: str, cure: str) -> Check:
    def look(subject: Subject) -> str | None:
        found = diagnosis(subject.objective)
        if found is None or found[0] != code:
            return None
        return f"on random vectors the loss is off by up to {found[1]:.3g}"

    return Check(code, "error", mistake, cure, ("training",), look)


_ORDER = "Compute the logit as s/temperature - log Q, then masks, then the loss (Objective)."

FORMULA_CHECKS = (
    _formula_check(
        "logq-inside-temperature",
        "log Q is divided by the temperature: (s - log Q)/τ corrects 1/τ times too much.",
        _ORDER,
    ),
    _formula_check(
        "logq-wrong-sign",
        "log Q is added instead of subtracted: the sampling bias is doubled.",
        _ORDER,
    ),
    _formula_check(
        "logq-ignored",
        "The correction is requested but not applied: the model learns P/Q.",
        _ORDER,
    ),
    _formula_check(
        "positive-uncorrected",
        "Only the negatives are corrected: the positive needs its log Q too.",
        _ORDER,
    ),
    _formula_check("temperature-ignored", "The temperature is accepted and ignored.", _ORDER),
    _formula_check("temperature-twice", "The score is divided by the temperature twice.", _ORDER),
    _formula_check(
        "objective-differs",
        "The objective does not compute s/τ - log Q before its loss.",
        _ORDER,
    ),
)


@check(
    "positive-term-lost",
    "error",
    "training",
    cure="Keep the positive's term in the loss (losses/); mask a row's own slot in the pool only.",
)
def positive_term_lost(subject: Subject) -> str | None:
    """The loss does not fall as the positive comes closer, so nothing attracts positives, and all
    vectors collapse or drift apart.
    """
    objective = subject.objective
    query = torch.nn.functional.one_hot(torch.tensor([0]), WIDTH).float()
    side = torch.nn.functional.one_hot(torch.tensor([1]), WIDTH).float()
    with torch.no_grad():
        far, near = (
            float(
                objective(
                    query,
                    positive,
                    0.9 * query + 0.1 * side,
                    positive_ids=torch.tensor([1]),
                    positive_log_q=torch.zeros(1),
                    negatives=Negatives.drawn(torch.tensor([2]), torch.zeros(1)),
                )[0]
            )
            for positive in (-query, query)
        )
    if near < far:
        return None
    return f"loss {far:.4g} with the positive opposite the query, {near:.4g} with it at the query"


CHECKS = (
    cosine_softmax_unscaled,
    bce_unscaled_cosine,
    temperature_too_high,
    temperature_too_low,
    margin_out_of_reach,
    correction_unfit,
    *FORMULA_CHECKS,
    positive_term_lost,
)
