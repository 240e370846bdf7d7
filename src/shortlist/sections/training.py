"""Which keys does [training] have, beside the options of its parts?"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shortlist.errors import suggest_part
from shortlist.metrics import PER_USER
from shortlist.sections.base import (
    AUTO,
    Count,
    CountOrAuto,
    Duration,
    NotNegative,
    Positive,
    Section,
    Seed,
    Text,
    WholeOrAuto,
    is_auto,
)

Mode = Literal["pointwise", "pairwise", "listwise"]
Similarity = Literal["cosine", "dot", "euclidean"]


def _mode(value: object) -> object:
    names = get_args(Mode)
    return names[value] if type(value) is int and 0 <= value < len(names) else value


NEG_RMSE = "neg_rmse"
"""Minus the root mean squared error, for losses that are fitted to values; larger is better."""


def _monitor(text: str) -> str:
    if text == NEG_RMSE:
        return text
    name, _, k = text.partition("@")
    if name not in PER_USER or not re.fullmatch("[1-9][0-9]{0,8}", k):
        reason = "" if name in PER_USER else suggest_part(name, PER_USER)
        raise ValueError(f"must be a metric with @k, such as 'ndcg@10'.{reason}")
    return text


class CommonTraining(Section):
    """The objective and the training loop. Keys that are unset follow from the mode."""

    may_be_missing: ClassVar[frozenset[str]] = frozenset({"correct_positives"})
    """Keys that came after format 3 of bundles: kept where they are given (docs/decisions/0012)."""

    without_log: ClassVar[Mapping[str, int | float]] = {
        "epochs": 10,
        "batch_size": 1024,
        "patience": 3,
    }

    mode: Annotated[Mode, BeforeValidator(_mode)] = Field(
        default="listwise", description='"pointwise", "pairwise" or "listwise"; also 0, 1 or 2.'
    )
    positives: Literal["u2i", "i2i", "u2u"] = Field(
        default="u2i",
        description='What a positive pair is: "u2i", a user and an item of theirs; "i2i", two '
        'items of one session; "u2u", two halves of one user\'s history.',
    )
    session_gap: Duration | None = Field(
        default=None,
        description="i2i: a session ends after this long without an event: seconds, or text such "
        'as "30min". If the unit of data.time is not known, a number is in that unit. Unset: '
        "data.session names the sessions.",
        examples=["30min"],
    )
    pair_window: Count | None = Field(
        default=None,
        description="i2i: largest distance, in events, of two items of a session that make a pair. "
        "Unset: 5 if events have an order, else any distance.",
        examples=[5],
    )
    loss: Text | None = Field(
        default=None, description="The loss. Unset: the mode's.", examples=["softmax"]
    )
    sampler: Text | None = Field(
        default=None,
        description="How negatives are drawn. Unset: the mode's.",
        examples=["in_batch"],
    )
    similarity: Similarity = Field(default="cosine", description='"cosine", "dot" or "euclidean".')
    temperature: Positive | None = Field(
        default=None,
        description="Scores are divided by the temperature. Unset: 0.1 for a cosine, or 1 if the "
        "loss has a margin, a scale or targets of its own; 1 for other similarities.",
        examples=[0.1],
    )
    learn_temperature: bool = Field(
        default=False,
        description="Whether the temperature is learned, starting from the value above.",
    )
    correct_sampling: bool | None = Field(
        default=None,
        description="Whether the log of an item's expected count among the negatives is subtracted "
        "from its score, for positives and negatives (logQ correction). Unset: the loss decides.",
        examples=[True],
    )
    correct_positives: bool = Field(
        default=True,
        description="Whether the logarithm is subtracted from the positive's score, too. "
        "false: the positive counts once, and each negative for all items that it stands for.",
    )
    negatives: Count | None = Field(
        default=None,
        description="Number of negatives drawn: for each row, or for the whole batch if shared. "
        "Unset: the mode's or the loss's; if sampler is not the mode's, the sampler's.",
        examples=[1024],
    )
    shared: bool | None = Field(
        default=None,
        description="Whether a whole batch shares one pool of negatives (true) or each row draws "
        "its own. Unset: the mode's; if sampler is not the mode's, the sampler's.",
        examples=[True],
    )
    mask_hits: bool | None = Field(
        default=None,
        description="Whether negatives that equal the row's positive (accidental hits) are masked. "
        "Unset: masked unless the sampling correction has to keep them.",
        examples=[True],
    )
    mask_known: bool = Field(
        default=False,
        description="Whether negatives that are other known positives of the user are masked.",
    )
    hard: Text | None = Field(
        default=None,
        description="Source of hard negatives, which have a loss term of their own without "
        "correction, beside the sampler's easy negatives. Unset: none.",
        examples=["mined"],
    )
    hard_share: Positive | None = Field(
        default=None,
        description="Number of hard negatives per row as a share of the easy ones in its pool, at "
        "least one. Unset: 0.01, one hard negative to 100 easy ones.",
        examples=[0.01],
    )
    hard_weight: Positive | None = Field(
        default=None,
        description="Weight of the hard loss term beside the easy one. Unset: 0.1.",
        examples=[0.1],
    )
    hard_known: bool | None = Field(
        default=None,
        description="Whether hard negatives may be known positives of the user. Unset: no.",
        examples=[False],
    )
    weighted: bool = Field(
        default=False,
        description="Whether the loss of each positive is weighted by data.weight; else all weigh "
        "the same.",
    )
    learning_rate: Positive = Field(default=0.003, description="Step size of the optimizer.")
    weight_decay: NotNegative = Field(
        default=0.0,
        description="Weight decay, decoupled from the gradient as in AdamW: each step takes this "
        "share of a weight off, times the step size.",
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear",
        description='How the step size falls to 0 over the epochs; "constant": it does not.',
    )
    warmup: WholeOrAuto = Field(
        default=0,
        description='Number of first steps in which the step size rises to learning_rate. "auto": '
        "a twentieth of all steps, at most 100.",
    )
    clip: Positive | None = Field(
        default=None,
        description="Largest norm of the gradient; longer ones are scaled down. Unset: no limit.",
        examples=[1.0],
    )
    optimizer: Literal["auto", "dense", "row-wise", "sharded"] = Field(
        default="auto",
        description='How embedding tables are updated: "dense", all rows in each step (AdamW); '
        '"row-wise", only the rows of the batch (Adagrad); "auto", row-wise for tables of 8 '
        'million numbers or more; "sharded", row-wise with the item tables split over the '
        "processes of torchrun (TorchRec).",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Decay of an exponential moving average of the weights, which is validated and "
        "kept in place of the weights. Tables are then trained densely. Unset: no average.",
        examples=[0.999],
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="Precision of matrix products: feature layers, and the scores of a softmax "
        "over a shared pool. Histories, sums and weights stay float32. "
        '"auto": bfloat16 if the device computes in it and the model has such products.',
    )
    epochs: CountOrAuto = Field(
        default=AUTO,
        description='Largest number of passes over the log. "auto": as many as a budget of steps '
        "allows; patience and the validation rows stop it earlier.",
    )
    batch_size: CountOrAuto = Field(
        default=AUTO,
        description='Positives per step (approximate for attention). "auto": smaller for a small '
        "log, so that an epoch has hundreds of steps.",
    )
    compile: bool = Field(
        default=False,
        description="Whether torch.compile compiles the towers at the first batch; it needs a C++ "
        "compiler.",
    )
    encode_rows: Count | None = Field(
        default=None,
        description="Number of rows that the towers encode at a time, for batches that do not fit "
        "into memory; each block is encoded again for its gradient. It needs a number for "
        "batch_size. Unset: the whole batch.",
        examples=[256],
    )
    validate_every: Count = Field(
        default=1, description="Number of epochs between two validations."
    )
    patience: WholeOrAuto = Field(
        default=AUTO,
        description="Training stops after this many epochs without a better figure; 0: never. "
        '"auto": a quarter of the epochs, at least 3.',
    )
    monitor: Annotated[str, AfterValidator(_monitor)] = Field(
        default="ndcg@10",
        description="Validation metric, with @k, by which the best epoch is chosen. neg_rmse, for "
        "losses fitted to values (loss = 'squared'), is minus the root mean squared error.",
    )
    seed: Seed = Field(
        default=0, description="Seed of the first weights, the batches and the negatives."
    )
    refit: Literal["none", "train+validation", "all"] = Field(
        default="none",
        description='Events that the final model is trained on: "none" keeps the measured model; '
        '"train+validation" and "all" train once more on these events.',
    )

    @model_validator(mode="after")
    def _blocks_act(self) -> Self:
        if self.encode_rows is not None and is_auto(self.batch_size):
            raise ValueError(
                "encode_rows is for batches too large for memory, which batch_size = 'auto', the "
                "default, never chooses: give batch_size as a number."
            )
        if self.encode_rows is not None and self.encode_rows >= self.batch_size:
            raise ValueError(
                f"encode_rows = {self.encode_rows} must be below batch_size = {self.batch_size}: "
                "with as many rows as the batch it does nothing."
            )
        return self
