"""What does [training] say, beside the options of its parts?"""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from shortlist.errors import suggest_part
from shortlist.metrics import PER_USER
from shortlist.sections.base import (
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
"""The figure of a loss that is fitted to values: the more, the better, so the error is negative."""


def _monitor(text: str) -> str:
    if text == NEG_RMSE:
        return text
    name, _, k = text.partition("@")
    if name not in PER_USER or not re.fullmatch("[1-9][0-9]{0,8}", k):
        reason = "" if name in PER_USER else suggest_part(name, PER_USER)
        raise ValueError(f"must be a metric with @k, such as 'ndcg@10'.{reason}")
    return text


class CommonTraining(Section):
    """The objective and the loop. What is unset follows from the mode."""

    mode: Annotated[Mode, BeforeValidator(_mode)] = Field(
        default="listwise", description='"pointwise", "pairwise" or "listwise"; also 0, 1 or 2.'
    )
    positives: Literal["u2i", "i2i", "u2u"] = Field(
        default="u2i",
        description='Which pairs are close: "u2i" a user and an item of theirs, "i2i" two items '
        'of one session, "u2u" two halves of one user\'s history.',
    )
    session_gap: Duration | None = Field(
        default=None,
        description="i2i: a session ends after so long without an event: seconds, or text such as "
        '"30min"; a number is in the unit of data.time where nobody knows it. Unset: data.session '
        "tells sessions apart.",
        examples=["30min"],
    )
    pair_window: Count | None = Field(
        default=None,
        description="i2i: how many places apart in their session two items may lie. Unset: 5 "
        "where data.time orders events, else any.",
        examples=[5],
    )
    loss: Text | None = Field(
        default=None, description="What is minimised. Unset: the mode's.", examples=["softmax"]
    )
    sampler: Text | None = Field(
        default=None,
        description="Where negatives come from. Unset: the mode's.",
        examples=["in_batch"],
    )
    similarity: Similarity = Field(default="cosine", description='"cosine", "dot" or "euclidean".')
    temperature: Positive | None = Field(
        default=None, description="Scores are divided by it. Unset: the mode's.", examples=[0.1]
    )
    learn_temperature: bool = Field(
        default=False, description="Whether the temperature is trained, from the value above."
    )
    correct_sampling: bool | None = Field(
        default=None,
        description="Whether the log of the sampling probability is taken off. "
        "Unset: where the loss wants it.",
        examples=[True],
    )
    negatives: Count | None = Field(
        default=None,
        description="How many are drawn, for each row or, where shared, for the batch. "
        "Unset: the mode's.",
        examples=[1024],
    )
    shared: bool | None = Field(
        default=None,
        description="One pool of negatives for a whole batch, or some for each row. "
        "Unset: the mode's.",
        examples=[True],
    )
    mask_hits: bool | None = Field(
        default=None,
        description="Whether negatives that are the row's own positive are dropped. "
        "Unset: where that is right.",
        examples=[True],
    )
    mask_known: bool = Field(
        default=False, description="Whether negatives the user is known to like are dropped."
    )
    hard: Text | None = Field(
        default=None,
        description="Hard negatives beside the sampler's easy ones, in a loss term of their own, "
        "uncorrected. Unset: none.",
        examples=["mined"],
    )
    hard_share: Positive | None = Field(
        default=None,
        description="Hard negatives of a row for each easy one in its pool, at least one in all. "
        "Unset: 0.01, easy to hard as 100 to 1.",
        examples=[0.01],
    )
    hard_weight: Positive | None = Field(
        default=None,
        description="What the hard term counts beside the easy one. Unset: 0.1.",
        examples=[0.1],
    )
    hard_known: bool | None = Field(
        default=None,
        description="Whether hard negatives may be items the user is known to like. Unset: no.",
        examples=[False],
    )
    weighted: bool = Field(
        default=False, description="Whether data.weight weighs the loss; else each positive is 1."
    )
    learning_rate: Positive = Field(default=0.003, description="Step size of the optimizer.")
    weight_decay: NotNegative = Field(
        default=0.0, description="How strongly weights are pulled to zero."
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the step size falls to nothing over the epochs."
    )
    warmup: WholeOrAuto = Field(
        default=0,
        description='Steps over which the step size first rises to learning_rate; "auto": a '
        "twentieth of them, at most 100.",
    )
    clip: Positive | None = Field(
        default=None,
        description="The gradient's norm is cut to this length. Unset: it is not.",
        examples=[1.0],
    )
    optimizer: Literal["auto", "dense", "row-wise", "sharded"] = Field(
        default="auto",
        description='How embedding tables learn: "dense" all rows at each step (AdamW), "row-wise" '
        'those of the batch (Adagrad), "auto" row-wise for tables of 8 million numbers or more, '
        '"sharded" row-wise, with the tables of items dealt over the processes of torchrun '
        "(TorchRec).",
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Validate and keep a moving average of the weights: how much of it stays at "
        "each step. Tables are then trained densely. Unset: the weights themselves.",
        examples=[0.999],
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="In which matrices are multiplied: the layers over features, and the scores of "
        "a softmax over a shared pool. Histories, sums and weights stay float32. "
        '"auto": bfloat16 where the device has arithmetic for it and it does something.',
    )
    epochs: CountOrAuto = Field(
        default=10,
        description='At most so many passes over the log; "auto": as many as a budget of steps '
        "allows, with patience and validation rows to stop earlier.",
    )
    batch_size: CountOrAuto = Field(
        default=1024,
        description='Positives in one step; with attention, about so many. "auto": fewer on a '
        "small log, so that an epoch has hundreds of steps.",
    )
    compile: bool = Field(
        default=False,
        description="Whether torch.compile turns the towers to machine code at the first batch; it "
        "needs a C++ compiler.",
    )
    encode_rows: Count | None = Field(
        default=None,
        description="Rows the towers encode at a time, for batches too large to hold at once: each "
        "block is encoded again when its gradient is known. Unset: all of a batch.",
        examples=[256],
    )
    validate_every: Count = Field(
        default=1, description="Epochs between two looks at the validation rows."
    )
    patience: WholeOrAuto = Field(
        default=3,
        description='Epochs without a better figure before training stops; 0: never; "auto": a '
        "quarter of them.",
    )
    monitor: Annotated[str, AfterValidator(_monitor)] = Field(
        default="ndcg@10",
        description="Validation figure that picks the epoch, with @k; neg_rmse, where values are "
        "fitted (loss = 'squared'), is minus the root of the mean squared error.",
    )
    seed: Seed = Field(default=0, description="Of the weights, the batches and the negatives.")
    refit: Literal["none", "train+validation", "all"] = Field(
        default="none",
        description='Events the final model learns from: "none" keeps the measured model, '
        '"train+validation" and "all" train again.',
    )

    @model_validator(mode="after")
    def _blocks_act(self) -> Self:
        if self.encode_rows is not None and is_auto(self.batch_size):
            raise ValueError(
                "encode_rows is for batches too large for memory, which batch_size = 'auto' never "
                "chooses: give batch_size as a number."
            )
        if self.encode_rows is not None and self.encode_rows >= self.batch_size:
            raise ValueError(
                f"encode_rows = {self.encode_rows} must be below batch_size = {self.batch_size}: "
                "with as many rows as a batch it does nothing."
            )
        return self
