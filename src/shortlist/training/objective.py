"""How do vectors become a loss? Similarity, then τ, then sampling correction, then masks."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shortlist.data.ragged import ChosenLists, Ragged
from shortlist.devices import free_to_read
from shortlist.errors import ModelError
from shortlist.losses import Loss, Scores, SoftmaxLoss, build_loss
from shortlist.losses.base import reads_values
from shortlist.sampling import check_sampler
from shortlist.sampling.base import (
    Dropped,
    Negatives,
    accidental_hits,
    known_items,
    matches,
    one_each,
)
from shortlist.sampling.known import KnownSlots
from shortlist.similarity import check_similarity, normalize, pair_score, score
from shortlist.training.fused import softmax_mean
from shortlist.training.ranks import ALONE, Ranks

LEARNED_TEMPERATURES = (0.01, 100.0)
"""Bounds of a learned temperature."""


class Rows(NamedTuple):
    """The data of a batch's rows besides their vectors; see `Objective.forward`."""

    positive_ids: Tensor
    negatives: Negatives
    positive_log_q: Tensor | None = None
    known: Ragged | ChosenLists | None = None
    groups: Tensor | None = None
    value: Tensor | None = None


class Objective(nn.Module):
    """The training objective: logit = s/τ - log Q, then masks, then the loss; one value per row.

    It is for training only: the served score is s(query, item). The slot that holds a row's own
    positive is always masked.

    A loss that is not shift-invariant gets a learned scalar bias, unless it is defined on a raw
    similarity. At the first training batch the bias is set so that the whole pool weighs about as
    much as the positive; otherwise thousands of negatives would dominate it.

    loss: the loss.
    similarity: "cosine", "dot" or "euclidean".
    temperature: τ, or its start value if it is learned.
    learn_temperature: learns τ within LEARNED_TEMPERATURES.
    correct_sampling: subtracts log Q, the log of the expected counts, from the scores of positives
    and negatives; None takes the default of the loss.
    correct_positives: False leaves the scores of positives uncorrected. True treats a positive as a
    draw of the sampler (Yi et al. 2019). With False a positive counts once, because it is always
    present, and only negatives are divided by their expected counts. The sum is then an unbiased
    estimate of the sum over the catalogue, and mask_hits = None masks hits.
    mask_hits: masks negatives that are the row's positive item. None masks them in a pool that
    holds an item at most once, and without correction. With correction, independent draws are
    exact only if hits are kept.
    mask_known: masks negatives that are other known positives of the row's user. This changes what
    is estimated, usually for the better.
    Errors: ModelError for options that do not work together.
    """

    ranks: Ranks = ALONE
    """The processes whose rows form a batch."""

    def __init__(
        self,
        loss: Loss,
        similarity: str = "cosine",
        *,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        correct_sampling: bool | None = None,
        correct_positives: bool = True,
        mask_hits: bool | None = None,
        mask_known: bool = False,
    ) -> None:
        super().__init__()
        check_similarity(similarity)
        _check_temperature(temperature)
        if loss.needs_raw is not None:
            _check_raw(loss.needs_raw, similarity, temperature)
        self.loss = loss
        self.similarity = similarity
        self.correct_sampling = loss.correction.resolve(correct_sampling)
        if not (correct_positives or self.correct_sampling):
            raise ModelError(
                "correct_positives = false changes the sampling correction, which is off: leave it "
                "out, or turn correct_sampling on"
            )
        self.correct_positives = correct_positives
        self.mask_hits = mask_hits
        self.mask_known = mask_known
        self._temperature = temperature
        self.log_scale: nn.Parameter | None = None  # log(1/τ), where it is learned
        if learn_temperature:
            _check_learnable(temperature, loss)
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias: nn.Parameter | None = None
        self.bias_started: Tensor
        self._begun = False  # last known value of `bias_started`
        if not (loss.shift_invariant or loss.needs_raw is not None):
            self.bias = nn.Parameter(torch.zeros(()))
            self.register_buffer("bias_started", torch.tensor(False))

    @property
    def temperature(self) -> float:
        """Current temperature τ."""
        return self._temperature if self.log_scale is None else math.exp(-self.log_scale.item())

    def learned(self) -> dict[str, float]:
        """Return "log_scale" (log 1/τ) and "bias" if they are learned; a bias after its start."""
        found = {}
        if self.log_scale is not None:
            found["log_scale"] = self.log_scale.item()
        if self.bias is not None and bool(self.bias_started):
            found["bias"] = self.bias.item()
        return found

    @torch.no_grad()
    def take_over(self, learned: Mapping[str, float], start: str) -> set[str]:
        """Set the learned numbers to those of an earlier training; return the names that were set.

        learned: numbers of the earlier training by name.
        start: prefix of these names.
        """
        taken = set()
        for name, own in (("log_scale", self.log_scale), ("bias", self.bias)):
            if own is not None and start + name in learned:
                own.fill_(learned[start + name])
                taken.add(name)
        if "bias" in taken:
            self.bias_started.fill_(True)
        return taken

    def mean(
        self,
        queries: Tensor,
        positives: Tensor,
        pool: Tensor,
        *,
        weight: Tensor,
        positive_ids: Tensor,
        negatives: Negatives,
        positive_log_q: Tensor | None = None,
        known: Ragged | ChosenLists | None = None,
        groups: Tensor | None = None,
        total: Tensor | None = None,
        bfloat16: bool = False,
    ) -> Tensor:
        """Return the weighted mean loss of the rows. Arguments not listed here are as in `forward`.

        A softmax over one pool for all rows is computed in blocks, so that only some of its scores
        are in memory at a time.

        weight: weight of each row, [B]. For a loss that is fitted to event values, it is the value
        of each row, and all rows have equal weight.
        total: divisor of the sum, if these rows are a part of the batch; None for the sum of their
        weights (for a loss that reads values, their number).
        bfloat16: multiplies the blocks of a softmax in bfloat16; it has no effect on other losses.
        """
        rows = Rows(positive_ids, negatives, positive_log_q, known, groups)
        if reads_values(self.loss):
            fitted: Tensor = self(queries, positives, pool, **rows._replace(value=weight)._asdict())
            return fitted.mean() if total is None else fitted.sum() / total
        if self.in_blocks(pool):
            return self._softmax_mean(queries, positives, pool, rows, weight, total, bfloat16)
        costs: Tensor = self(queries, positives, pool, **rows._asdict())
        return (costs * weight).sum() / (weight.sum() if total is None else total)

    def in_blocks(self, pool: Tensor) -> bool:
        """Tell whether `mean` works in blocks: for a softmax over one pool for all rows, [M, D]."""
        return type(self.loss) is SoftmaxLoss and pool.dim() == 2

    def forward(
        self,
        queries: Tensor,
        positives: Tensor,
        pool: Tensor,
        *,
        positive_ids: Tensor,
        negatives: Negatives,
        positive_log_q: Tensor | None = None,
        known: Ragged | ChosenLists | None = None,
        groups: Tensor | None = None,
        value: Tensor | None = None,
    ) -> Tensor:
        """Return one loss per row, [B].

        queries: query vectors, [B, D] or [B, K, D].
        positives: vectors of the positives, [B, D].
        pool: vectors of negatives.ids, [M, D] or [B, M, D].
        positive_ids: item rows of the positives, [B].
        negatives: ids, log_q and source of the pool.
        positive_log_q: the sampler's log_q of the positives, [B]; needed for the correction, and
        by losses that read the rate.
        known: known item rows of each row's user; needed with mask_known.
        groups: [B], equal for rows of one user's history. A slot that holds a positive of the
        row's own group is not an independent draw, and is masked.
        value: value of each row's event, [B], for a loss that is fitted to values.
        """
        rows = Rows(positive_ids, negatives, positive_log_q, known, groups, value)
        logits = self._logits(rows)
        positive = logits.of_positives(
            logits.scaled(pair_score(queries, positives, self.similarity))
        )
        negative = logits.of_negatives(logits.scaled(score(queries, pool, self.similarity)))
        valid = ~self._dropped(rows)
        rate = None if positive_log_q is None else positive_log_q.exp()
        return self.loss(self._shifted(Scores(positive, negative, valid, rate, value)))

    def _logits(self, rows: Rows) -> "_Logits":
        """Return the temperature and correction of these rows."""
        temperature = self._current_temperature()
        if not self.correct_sampling:
            return _Logits(temperature)
        if rows.positive_log_q is None:
            raise ModelError(
                "correction needs positive_log_q, the sampler's log_q of the positives"
            )
        corrected = _Logits(temperature, rows.positive_log_q, rows.negatives.log_q)
        return corrected if self.correct_positives else corrected._replace(positive_log_q=None)

    def _current_temperature(self) -> Tensor | float:
        if self.log_scale is None:
            return self._temperature
        coldest, hottest = LEARNED_TEMPERATURES
        with torch.no_grad():  # clamping the parameter itself keeps its gradient at the bounds
            self.log_scale.clamp_(-math.log(hottest), -math.log(coldest))
        return torch.exp(-self.log_scale)

    def _softmax_mean(
        self,
        queries: Tensor,
        positives: Tensor,
        pool: Tensor,
        rows: Rows,
        weight: Tensor,
        total: Tensor | None,
        bfloat16: bool,
    ) -> Tensor:
        """Return the mean of SoftmaxLoss over a shared pool, computed in blocks of rows."""
        if self.similarity == "cosine":
            queries, positives, pool = normalize(queries), normalize(positives), normalize(pool)
        if self.similarity == "euclidean":
            queries, positives, pool = _flattened(queries, positives, pool)
        logits = self._logits(rows)
        scaled = logits.scaled(queries)  # a score is linear in its query
        if queries.dim() == 2:
            positive = (scaled * positives).sum(1)
        else:
            positive = (scaled * positives.unsqueeze(1)).sum(2).amax(dim=1)
        positive = logits.of_positives(positive)
        offset = logits.of_negatives(torch.zeros_like(rows.negatives.log_q))
        dropped: Dropped | Callable[[slice], Tensor] = partial(self._dropped_of, rows)
        if self._by_pairs(rows):
            dropped = self._dropped_pairs(rows)
        return softmax_mean(
            *(scaled, pool, positive, offset, dropped, weight),
            known=self._known_slots(rows),
            total=total,
            bfloat16=bfloat16,
        )

    def _dropped(self, rows: Rows) -> Tensor:
        """Return bool [B, M], True where a slot is masked for a row."""
        negatives, positive_ids = rows.negatives, rows.positive_ids
        if negatives.ids.dim() == 1 and not self._by_pairs(rows):
            return self._dropped_of(rows, slice(None))
        if negatives.ids.dim() == 1:
            pairs = self._dropped_pairs(rows)
            dropped = torch.zeros(
                len(positive_ids), len(negatives.ids), dtype=torch.bool, device=positive_ids.device
            )
            dropped[pairs.rows, pairs.columns] = True
            if (known := self._known_slots(rows)) is not None:
                known.fill(dropped, 0, True)
            return dropped
        owner, asker = _owners(rows)
        dropped = owner == asker.unsqueeze(1)
        if self._drops_hits(negatives):
            dropped = dropped | accidental_hits(negatives, positive_ids)
        if self.mask_known:
            dropped = dropped | known_items(negatives, _required(rows.known), positive_ids)
        return dropped

    def _by_pairs(self, rows: Rows) -> bool:
        """Tell whether masked slots are listed as pairs instead of a [B, M] mask: not on a GPU."""
        return free_to_read(rows.negatives.ids) or self.mask_known

    def _dropped_of(self, rows: Rows, part: slice) -> Tensor:
        """Return bool [r, M], True where a slot of a shared pool is masked for these rows."""
        owner, asker = _owners(rows)
        dropped = owner == asker[part].unsqueeze(1)
        if self._drops_hits(rows.negatives):
            dropped |= rows.negatives.ids == rows.positive_ids[part].unsqueeze(1)
        return dropped

    def _dropped_pairs(self, rows: Rows) -> Dropped:
        """Return the pairs of row and slot of a shared pool that are masked.

        On a CPU those of `mask_known` are missing: `_known_slots` lists them.
        """
        negatives, positive_ids = rows.negatives, rows.positive_ids
        owner, asker = _owners(rows)
        found = [matches(owner, one_each(asker))]
        if self._drops_hits(negatives):
            found.append(matches(negatives.ids, one_each(positive_ids)))
        if self.mask_known and not free_to_read(negatives.ids):
            others = matches(negatives.ids, _required(rows.known))
            other = negatives.ids[others.columns] != positive_ids[others.rows]
            found.append(Dropped(others.rows[other], others.columns[other]))
        all_rows = torch.cat([pairs.rows for pairs in found])
        columns = torch.cat([pairs.columns for pairs in found])
        order = all_rows.argsort(stable=True)
        return Dropped(all_rows[order], columns[order])

    def _known_slots(self, rows: Rows) -> KnownSlots | None:
        """Return the slots of a shared pool on a CPU that `mask_known` masks; None for none."""
        ids = rows.negatives.ids
        if not (self.mask_known and free_to_read(ids)):
            return None
        return KnownSlots.of(ids, _required(rows.known), rows.positive_ids)

    def _drops_hits(self, negatives: Negatives) -> bool:
        if self.mask_hits is not None:
            return self.mask_hits
        if not self.correct_positives:
            return True
        return negatives.distinct or not self.correct_sampling

    def _shifted(self, scores: Scores) -> Scores:
        """Add the learned bias, if the loss needs one."""
        if self.bias is None:
            return scores
        if self.training and not self._begun and not self.bias_started:
            with torch.no_grad():
                weight = scores.masked_negative().logsumexp(dim=1)  # log of the pool's sum, [B]
                mean = self.ranks.mean(weight[weight.isfinite()])
                if mean is not None:
                    self.bias.copy_(-mean)
                    self.bias_started.fill_(True)
        if self.training and not self._begun:  # later steps then do not read the tensor
            self._begun = bool(self.bias_started)
        return scores._replace(
            positive=scores.positive + self.bias, negative=scores.negative + self.bias
        )


def build_objective(
    loss: str,
    *,
    similarity: str = "cosine",
    temperature: float | None = None,
    learn_temperature: bool = False,
    correct_sampling: bool | None = None,
    correct_positives: bool = True,
    mask_hits: bool | None = None,
    mask_known: bool = False,
    sampler: str | None = None,
    **options: Any,
) -> Objective:
    """Build an objective from names; None takes a default.

    loss: name of the loss.
    temperature: τ. The default is 0.1 for a cosine, and 1 for other similarities and for losses
    with a margin, scale or target of their own.
    sampler: name of the sampler, to check that it works with the correction; None does not check.
    options: options of the loss.
    The other arguments are as in Objective.
    Errors: ModelError for an unknown name, for an option that the loss does not have, and for
    options that do not work together.
    """
    if sampler is not None:
        left_out = None if correct_positives else False
        check_sampler(sampler, correct_sampling=correct_sampling, correct_positives=left_out)
    built = build_loss(loss, **options)
    if temperature is None:
        temperature = 0.1 if similarity == "cosine" and not built.own_scale else 1.0
    return Objective(
        built,
        similarity,
        temperature=temperature,
        learn_temperature=learn_temperature,
        correct_sampling=correct_sampling,
        correct_positives=correct_positives,
        mask_hits=mask_hits,
        mask_known=mask_known,
    )


def _flattened(queries: Tensor, positives: Tensor, pool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors whose dot products are -|q - t|², up to a constant per row.

    queries: [B, D] or [B, K, D].
    positives: [B, D].
    pool: [M, D].
    """
    several = queries.dim() == 3
    square = queries.square().sum(-1, keepdim=True)
    asked = [2 * queries, -torch.ones_like(square)]
    if several:  # -|q|² differs between the interests of a row
        asked.append(-square)

    def beside(items: Tensor) -> Tensor:
        square = items.square().sum(1, keepdim=True)
        return torch.cat([items, square, *([torch.ones_like(square)] if several else [])], dim=1)

    return torch.cat(asked, dim=-1), beside(positives), beside(pool)


class _Logits(NamedTuple):
    """Computes s/τ - log Q.

    temperature: τ.
    positive_log_q: log Q of the positives, [B]; None without correction.
    negative_log_q: log Q of the pool, [M] or [B, M]; None without correction.
    """

    temperature: Tensor | float
    positive_log_q: Tensor | None = None
    negative_log_q: Tensor | None = None

    def scaled(self, scores: Tensor) -> Tensor:
        """Return s/τ."""
        return scores / self.temperature

    def of_positives(self, scaled: Tensor) -> Tensor:
        """Subtract log Q from s/τ of the positives, [B]."""
        return scaled if self.positive_log_q is None else scaled - self.positive_log_q

    def of_negatives(self, scaled: Tensor) -> Tensor:
        """Subtract log Q from s/τ of the negatives, [M] or [B, M]."""
        return scaled if self.negative_log_q is None else scaled - self.negative_log_q


def _owners(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the owner of each slot, shaped as ids, and the owner of each row, [B].

    A slot is masked for the rows of its owner. The owner is the row itself, or its group; a slot
    whose item was drawn has the owner -1.
    """
    source, groups = rows.negatives.source, rows.groups
    if groups is None:
        return source, torch.arange(len(rows.positive_ids), device=source.device)
    return groups[source.clamp(min=0)].masked_fill(source < 0, -1), groups


def _required(known: Ragged | ChosenLists | None) -> Ragged | ChosenLists:
    if known is None:
        raise ModelError("mask_known needs the known positives of the batch")
    return known


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ModelError(f"temperature must be > 0 and finite, got {temperature}")


def _check_learnable(temperature: float, loss: Loss) -> None:
    coldest, hottest = LEARNED_TEMPERATURES
    if loss.own_scale:
        raise ModelError(
            "learn_temperature: this loss has a margin, scale or target in the units of the "
            "similarity, and a learned temperature would change those units; leave it out, or use "
            "loss = 'bpr'"
        )
    if not coldest <= temperature <= hottest:
        raise ModelError(
            f"a learned temperature must start between {coldest:g} and {hottest:g}, got "
            f"{temperature}"
        )


RAW = {
    "cosine": "the raw cosine, from -1 to 1",
    "dot": "the raw dot product, which is the number itself",
}
"""Description of the score of a loss with needs_raw, by similarity."""


def _check_raw(raw: str, similarity: str, temperature: float) -> None:
    """Refuse another similarity than `raw`, and a temperature other than 1."""
    cure = "or use loss = 'bce' or 'softmax'"
    if similarity != raw:
        raise ModelError(
            f"similarity = '{similarity}': this loss is defined on {RAW[raw]}; "
            f"use similarity = '{raw}', {cure}"
        )
    if temperature != 1:
        where = "out of the range from -1 to 1" if raw == "cosine" else "away from its targets"
        raise ModelError(
            f"temperature = {temperature:g}: this loss is defined on {RAW[raw]}, which a "
            f"temperature would move {where}; leave temperature out, {cure}"
        )
