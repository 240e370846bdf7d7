"""How do [model] and [training] get the options of parts that a plugin adds later?"""

from shortlist.config.model import MODEL_PARTS, Model
from shortlist.config.parts import options_of, with_options
from shortlist.config.recipe import Recipe
from shortlist.config.training import TRAINING_PARTS, Training
from shortlist.sections.base import Section
from shortlist.sections.model import CommonModel
from shortlist.sections.training import CommonTraining


def take_parts() -> None:
    """Add the options of every registered part to [model] and [training].

    A section that was read before has the default of a key that was added later. Errors: TypeError
    for an option that cannot be a key; nothing has changed then.
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
