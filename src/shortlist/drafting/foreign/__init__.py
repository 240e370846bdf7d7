"""WHERE PEOPLE COME FROM: configurations of other libraries, read as data, become recipes.

No code of theirs is imported or run. What a recipe cannot say is listed, never dropped silently.
"""

from shortlist.drafting.foreign.base import Foreign
from shortlist.drafting.foreign.recbole import from_recbole
from shortlist.drafting.foreign.rectools import from_rectools

FOREIGN: dict[str, Foreign] = {"recbole": from_recbole, "rectools": from_rectools}
"""Each library whose configurations are understood."""
