"""WHERE PEOPLE COME FROM: configurations of other libraries become recipes.

Configurations are read as data; no code of theirs is imported or run. What a recipe cannot express
is listed and never dropped silently.
"""

from shortlist.drafting.foreign.base import Foreign
from shortlist.drafting.foreign.recbole import from_recbole
from shortlist.drafting.foreign.rectools import from_rectools

FOREIGN: dict[str, Foreign] = {"recbole": from_recbole, "rectools": from_rectools}
"""The reader of each library whose configurations are understood."""
