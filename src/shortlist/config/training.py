"""[training] of a recipe: which objective, and how is it minimised?"""

from typing import TYPE_CHECKING

from shortlist.config.parts import with_options
from shortlist.sections.training import CommonTraining

TRAINING_PARTS = ("loss", "sampler", "hard")
"""The keys of [training] that name parts whose options are keys beside them."""

if TYPE_CHECKING:
    TrainingOptions = CommonTraining
else:
    TrainingOptions = with_options(CommonTraining, *TRAINING_PARTS)


class Training(TrainingOptions):
    """The objective and the training loop. Keys that are unset follow from the mode."""
