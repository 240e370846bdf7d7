"""The recipe: data, split, model, training and evaluation, read strictly from TOML.

An unknown key, a wrong type, a value out of range and sections that contradict each other raise a
RecipeError that names the file, the key and what to do. Only `[data]` is required.
"""

from shortlist.config.data import Data
from shortlist.config.evaluation import Evaluation
from shortlist.config.features import Features
from shortlist.config.model import Model
from shortlist.config.reading import DATA_VARIABLE, load_recipe
from shortlist.config.recipe import Recipe, section_from
from shortlist.config.split import Split
from shortlist.config.template import template, to_toml
from shortlist.config.training import Training
from shortlist.config.tune import Tune
from shortlist.sections.kinds import SplitKind
from shortlist.sections.training import Mode, Similarity

__all__ = [
    "DATA_VARIABLE",
    "Data",
    "Evaluation",
    "Features",
    "Mode",
    "Model",
    "Recipe",
    "Similarity",
    "Split",
    "SplitKind",
    "Training",
    "Tune",
    "load_recipe",
    "section_from",
    "template",
    "to_toml",
]
