"""How do the sections of a recipe get the keys of parts that came after `config` was imported?"""

from shortlist.config.model import MODEL_PARTS, Model
from shortlist.config.parts import options_of, with_options
from shortlist.config.recipe import Recipe
from shortlist.config.training import TRAINING_PARTS, Training
from shortlist.sections.base import Section
from shortlist.sections.model import CommonModel
from shortlist.sections.training import CommonTraining


def take_parts() -> None:
    """Let [model] and [training] have the options of every part that the tables hold now.

    A section that was read before has the default of a key that came since. Errors: TypeError for
    an option that cannot be a key, before anything has changed.
    """
    options_of.cache_clear()
    made: list[tuple[type[Section], type[Section], type[Section]]] = [
        (Model, CommonModel, with_options(CommonModel, *MODEL_PARTS)),
        (Training, CommonTraining, with_options(CommonTraining, *TRAINING_PARTS)),
    ]
    for section, common, grown in made:
        fields = section.model_fields
        for name in [name for name in fields if name not in grown.model_fields]:
            del fields[name]
        added = {n: f for n, f in grown.model_fields.items() if n not in common.model_fields}
        fields.update(added)
        section.model_rebuild(force=True)
    for name, default in (("model", Model()), ("training", Training())):
        Recipe.model_fields[name].default = default
    Recipe.model_rebuild(force=True)
