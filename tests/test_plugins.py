"""Parts of a plug-in are known by name once the caller gives its module."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field

import shortlist
from shortlist import plugins
from shortlist.blending.blend import Blend
from shortlist.blending.retrievers import RETRIEVERS
from shortlist.bundle.bundle import load, save
from shortlist.channels.counting.item_cf import ItemCF
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.item_to_item import ItemToItem
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.channels.learned.user_to_user import UserToUser
from shortlist.cli.app import main
from shortlist.config import Model, Recipe, Training, template
from shortlist.config.later import take_parts
from shortlist.config.recipe import LEARNED_KINDS
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.data.synthetic import planted_world
from shortlist.errors import BundleError, ModelError, PluginError, RecipeError
from shortlist.evaluation.evaluate import evaluate
from shortlist.index.exact import ExactIndex
from shortlist.losses import LOSSES
from shortlist.losses.hinge import HingeLoss
from shortlist.losses.softmax import SoftmaxLoss
from shortlist.plugins import OWN, TABLES, use_plugins
from shortlist.runs.pipeline import build
from shortlist.sampling import UniformSampler
from shortlist.sampling.hard.hardest import HardestNegatives
from shortlist.serving.measures import Measures
from shortlist.serving.watching import Watch
from shortlist.towers.gru import GRU
from shortlist.towers.interests import SelfAttentiveInterests
from shortlist.towers.pooling import MeanPooling

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
SMALL = {"dim": 4, "epochs": 1, "batch_size": 256}


@dataclass(frozen=True)
class Focal(SoftmaxLoss):
    """A loss with an option of its own."""

    hardness: Annotated[float, Field(ge=0, description="How little an easy positive counts.")] = 2.0


class Even(MeanPooling):
    """A tower part."""


class Walk(ItemCF):
    """A channel."""


class Named(TwoTower):
    """A channel with towers."""


class Near(ExactIndex):
    """An index."""


def my_first_hit(found, relevant):
    """A metric."""
    return found[:, 0].astype(np.float64)


MINE = {
    "LOSSES": {"my-focal": Focal},
    "TOWERS": {"my-even": Even},
    "CHANNELS": {"my-walk": Walk, "my-named": Named},
    "INDEXES": {"my-near": Near},
    "METRICS": {"my_first_hit": my_first_hit},
}


@pytest.fixture(autouse=True)
def forgotten():
    """What a test makes known is unknown afterwards, and none of its modules stays imported."""
    before = set(sys.modules)
    yield
    grown = bool(OWN)
    for table, name in list(OWN):
        del TABLES[table].parts[name]
        if table == "CHANNELS":
            del RETRIEVERS[name]
            LEARNED_KINDS[:] = [kind for kind in LEARNED_KINDS if kind != name]
    OWN.clear()
    if grown:
        take_parts()
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def split():
    log = planted_world(users=60, items=50, events=700, seed=3).interactions
    return Dataset.load(log, schema=Schema(time="timestamp")).split()


def module(folder, monkeypatch, name, text):
    """Write a module that can be imported by its name."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return name


# What a plug-in brings.


def test_an_option_is_a_key_of_recipe_template_and_retriever_once_its_part_is_known(split):
    old = Training()
    with pytest.raises(ModelError, match="no option 'hardness'"):
        TwoTower(hardness=1.0)
    use_plugins([MINE])
    assert TwoTower(loss="my-focal", hardness=1.0).training_section.hardness == 1.0
    assert "# my-focal: how little an easy positive counts. Unset: 2.0." in template()
    with pytest.raises(ModelError, match="hardness must be >= 0"):
        TwoTower(loss="my-focal", hardness=-1.0)
    with pytest.raises(ModelError, match="'softmax' does not use hardness"):
        TwoTower(hardness=1.0)
    for kind in (ItemToItem, UserToUser):
        assert "hardness" in kind.reads
    recipe = {"data": {"interactions": "x"}, "training": {"loss": "my-focal", "hardness": 0.5}}
    assert build(Recipe.from_dict(recipe)).training_section.hardness == 0.5
    # What was read before goes on working, and has the default of what came since.
    assert old.hardness is None
    assert Training.model_validate(old.model_dump()) == Training()
    assert TwoTower(training=old, **SMALL).fit(split).state()[0]["training"].keys() >= {"loss"}


def test_a_class_and_an_instance_mean_what_the_name_does():
    use_plugins([MINE])
    named = TwoTower(loss="my-focal", hardness=0.5, history="my-even", sampler="uniform")
    given = TwoTower(loss=Focal(hardness=0.5), history=Even, sampler=UniformSampler)
    assert given.training_section == named.training_section
    assert given.model_section == named.model_section
    assert TwoTower(loss=Focal).training_section.hardness is None
    assert TwoTower(loss=HingeLoss(margin=0.3)).training_section.margin == 0.3
    with pytest.raises(ModelError, match="hardness is given twice"):
        TwoTower(loss=Focal(hardness=0.5), hardness=0.5)


def test_a_recipe_of_others_is_written_without_the_options_of_parts_it_does_not_name():
    class Wide(MeanPooling):
        def __init__(
            self, shape, segment_width: Annotated[int, Field(description="A width.")] = 3
        ) -> None:
            super().__init__(shape)

    recipe = Recipe.from_dict({"data": {"interactions": "x"}})
    before = recipe.to_dict()
    use_plugins([{"TOWERS": {"wide": Wide}}])
    assert Model(history="wide").segment_width == 3
    assert Recipe.from_dict({"data": {"interactions": "x"}}).to_dict() == before
    assert recipe.to_dict() == before


def test_a_channel_an_index_and_a_metric_serve_as_ours_do_and_come_back_with_a_bundle(
    split, tmp_path
):
    use_plugins([MINE])
    towers = Named(loss=Focal(0.5), monitor="my_first_hit@5", **SMALL)
    blend = Blend({"walk": Walk(), "towers": towers}, quotas={"walk": 3, "towers": 3}).fit(split)
    vectors = towers.placed_vectors()
    towers.use_index(Near("cosine").build(*vectors))
    assert evaluate(blend, k=[5]).metrics["my_first_hit@5"].mean <= 1
    save(blend, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    kept = {(part["table"], part["name"]) for part in manifest["parts"]}
    assert kept == {
        *(("CHANNELS", "my-walk"), ("CHANNELS", "my-named"), ("LOSSES", "my-focal")),
        *(("INDEXES", "my-near"), ("METRICS", "my_first_hit")),
    }
    again = load(tmp_path / "bundle").retriever
    assert type(again.channels["towers"]) is Named
    assert again.recommend([10_001, 10_002], 5).ids == blend.recommend([10_001, 10_002], 5).ids


def test_a_recipe_names_channels_of_ones_own_with_towers_or_without():
    use_plugins([MINE])
    content = {
        "data": {"interactions": "x"},
        "model": {"dim": 8},
        "channels": {"a": {"kind": "my-named", "loss": "my-focal"}, "b": {"kind": "my-walk"}},
        "blend": {"quotas": {"a": 1, "b": 1}},
    }
    blend = build(Recipe.from_dict(content))
    assert [type(channel) for channel in blend.channels.values()] == [Named, Walk]
    assert blend.channels["a"].model_section.dim == 8


class Tilted(UniformSampler):
    """A sampler with an option."""

    @classmethod
    def from_counts(
        cls,
        counts,
        negatives=4,
        shared=False,
        tilt: Annotated[float, Field(ge=0, description="A tilt.")] = 1.0,
    ):
        made = super().from_counts(counts, negatives=negatives, shared=shared)
        made.tilt = tilt
        return made


class Lucky(HardestNegatives):
    """A source of hard negatives with an option."""

    @classmethod
    def build(cls, world, luck: Annotated[int, Field(ge=0, description="Luck.")] = 1):
        return cls()


class Gated(GRU):
    """A tower that is asked at every event."""


class Several(SelfAttentiveInterests):
    """A tower of interests."""


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": Tilted, "tilt": 2.0},
        {"hard": Lucky, "hard_luck": 3},
        {"history": Gated, "history_layers": 2},
        {"history": Several, "interests": 3},
    ],
    ids=str,
)
def test_parts_of_every_table_train_and_come_back(options, split, tmp_path):
    tables = {"SAMPLERS": {"my-tilted": Tilted}, "HARD": {"my-lucky": Lucky}}
    use_plugins([tables | {"TOWERS": {"my-gated": Gated, "my-several": Several}}])
    trained = TwoTower(**options, **SMALL).fit(split)
    save(trained, tmp_path / "bundle")
    again = load(tmp_path / "bundle").retriever
    assert again.training_section == trained.training_section
    assert again.model_section == trained.model_section
    assert again.recommend([10_001], 5).ids == trained.recommend([10_001], 5).ids


# What is not known is refused, and nothing is imported for it.


def test_a_recipe_without_its_plug_in_is_refused_by_one_error_that_says_what_to_give():
    content = {
        "data": {"interactions": "x"},
        "model": {"history": "sinking", "history_weights": 3},
        "training": {"loss": "my-focal", "hardness": 1.0},
    }
    with pytest.raises(RecipeError) as refused:
        Recipe.from_dict(content)
    said = str(refused.value)
    assert "has 2 faults" in said
    assert "model.history: there is no history 'sinking'" in said
    assert "training.loss: there is no loss 'my-focal'" in said
    assert "--plugin MODULE" in said
    del content["model"], content["training"]["hardness"]
    with pytest.raises(ModelError, match=r"unknown loss 'my-focal'.*--plugin MODULE"):
        build(Recipe.from_dict(content))
    content["training"] = {"monitor": "newness@10"}
    with pytest.raises(RecipeError, match=r"monitor must be a metric.*--plugin MODULE"):
        Recipe.from_dict(content)
    content.update(training={}, channels={"a": {"kind": "my-walk"}})
    with pytest.raises(RecipeError, match=r"no retriever 'my-walk'.*--plugin MODULE"):
        build(Recipe.from_dict(content))


def test_a_bundle_imports_nothing_and_says_what_it_needs_even_while_it_is_served(
    split, tmp_path, monkeypatch
):
    name = module(tmp_path, monkeypatch, "own_swap", OWN_LOSS)
    save(Popular().fit(split), tmp_path / "served" / "a")
    use_plugins([name])
    save(TwoTower(loss="quiet", **SMALL).fit(split), tmp_path / "new")
    del TABLES["LOSSES"].parts["quiet"], OWN["LOSSES", "quiet"], sys.modules[name]
    wanted = r"'quiet' of LOSSES from own_swap.*--plugin own_swap, or plugins=\['own_swap'\]"
    with pytest.raises(BundleError, match=wanted):
        load(tmp_path / "new")
    watch = Watch(tmp_path / "served", Measures())
    watch.look()
    serving = watch.current
    (tmp_path / "new").rename(tmp_path / "served" / "b")
    watch.look()
    assert watch.current is serving
    assert "--plugin own_swap" in watch.refused[0].reason
    assert name not in sys.modules
    assert (
        load(tmp_path / "served" / "b", plugins=[name]).retriever.training_section.loss == "quiet"
    )


def test_a_bundle_whose_part_is_now_called_as_one_of_ours_is_refused(split, tmp_path):
    use_plugins([MINE])
    save(Walk().fit(split), tmp_path / "bundle")
    own = OWN.pop(("CHANNELS", "my-walk"))
    with pytest.raises(
        BundleError, match=r"'my-walk' of CHANNELS .* not this version's own part of that name"
    ):
        load(tmp_path / "bundle")
    OWN["CHANNELS", "my-walk"] = own


def test_a_bundle_of_ours_alone_says_nothing_of_parts(split, tmp_path):
    use_plugins([MINE])
    save(Popular().fit(split), tmp_path / "bundle")
    assert "parts" not in json.loads((tmp_path / "bundle" / "manifest.json").read_text())


# What has no name is refused, before it trains where that can be.


class Unnamed(SoftmaxLoss):
    """A loss that no table holds."""


class Secretive(SoftmaxLoss):
    """A loss that holds something which is no option."""

    def __init__(self) -> None:
        object.__setattr__(self, "made", object())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": Unnamed()}, r"no name in LOSSES.*'LOSSES': {'my-part': Unnamed}"),
        ({"loss": Unnamed}, "no name in LOSSES"),
        ({"loss": lambda scores: scores}, "expected a name of LOSSES"),
        ({"loss": 3}, "expected a name of LOSSES"),
        ({"history": Unnamed}, "no name in TOWERS"),
        ({"history": MeanPooling(Model())}, "give the class"),
        ({"sampler": UniformSampler.from_counts(torch.tensor([0, 1]))}, "give the class"),
        ({"hard": print}, "expected a name of HARD, or a class"),
    ],
)
def test_a_part_without_a_name_is_refused_before_any_data(options, words):
    with pytest.raises(ModelError, match=words):
        TwoTower(**options)


def test_an_instance_that_holds_more_than_its_options_say_is_refused():
    use_plugins([{"LOSSES": {"secretive": Secretive}}])
    with pytest.raises(ModelError, match="not what Secretive makes of its options"):
        TwoTower(loss=Secretive())


def test_a_channel_or_index_without_a_name_is_used_but_not_saved(split, tmp_path):
    walk = Walk().fit(split)
    assert walk.recommend([10_001], 3).ids
    with pytest.raises(BundleError, match="a Walk cannot be saved: it has no name in CHANNELS"):
        save(walk, tmp_path / "bundle")
    blend = Blend({"a": walk, "b": Popular().fit(split)}, quotas={"a": 1, "b": 1})
    with pytest.raises(ModelError, match="the channel a, a Walk, has no name in CHANNELS"):
        save(blend, tmp_path / "bundle")
    towers = TwoTower(**SMALL).fit(split)
    with pytest.raises(ModelError, match="the index, a Near, has no name in INDEXES"):
        towers.use_index(Near("cosine").build(*towers.placed_vectors()))


# A plug-in that cannot be used is refused whole.

OWN_LOSS = """
from shortlist.losses.softmax import SoftmaxLoss

class Quiet(SoftmaxLoss):
    pass

LOSSES = {"quiet": Quiet}
"""


def test_the_same_plug_in_may_come_again_and_a_class_defined_anew_takes_its_place():
    use_plugins([MINE, MINE])
    use_plugins([MINE])

    def defined(default):
        @dataclass(frozen=True)
        class Cell(SoftmaxLoss):
            weight: Annotated[float, Field(description="A weight.")] = default

        return Cell

    use_plugins([{"LOSSES": {"cell": defined(1.0)}}])
    use_plugins([{"LOSSES": {"cell": defined(2.0)}}])
    assert LOSSES["cell"]().weight == 2.0
    assert "cell: a weight. Unset: 2.0." in str(Training.model_fields["weight"].description)


@dataclass(frozen=True)
class Hidden(SoftmaxLoss):
    hardness: float = 2.0


@dataclass(frozen=True)
class Clashing(SoftmaxLoss):
    epochs: Annotated[int, Field(description="Something else.")] = 2


@dataclass(frozen=True)
class Alphabetic(SoftmaxLoss):
    alpha: Annotated[float, Field(description="Not that of the samplers.")] = 2.0


class Plain:
    """Nothing that pydantic knows."""


@dataclass(frozen=True)
class Unknown(SoftmaxLoss):
    hardness: Annotated[Plain, Field(description="Of a type that no recipe can write.")] = None


class Vague(ExactIndex):
    def __init__(self, similarity, width=3) -> None:
        super().__init__(similarity)


class Half:
    shift_invariant: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ({"LOSSES": {"bpr": Focal}}, r"LOSSES\['bpr'\]: there is a part of this name"),
        ({"TOWERS": {"none": Even}}, r"TOWERS\['none'\]: there is a part of this name"),
        ({"CHANNELS": {"blend": Walk}}, "there is a part of this name"),
        ({"SAMPLERS": {"mined": UniformSampler}}, "there is a part of this name"),
        ({"LOSSES": {"Focal!": Focal}}, "a name has up to 32 lower-case letters"),
        ({"LOSSES": {3: Focal}}, "a name has up to 32 lower-case letters"),
        ({"LOSSES": {"my-focal": Hidden}}, r"a recipe cannot set its hardness: annotate"),
        (
            {"LOSSES": {"my-focal": Half}},
            r"it lacks correction, needs_raw, own_scale, .*: see shortlist\.losses\.base\.Loss$",
        ),
        ({"HARD": {"my-hard": Half}}, r"it lacks .*: see shortlist\.sampling\.hard\.base\."),
        ({"LOSSES": {"my-focal": Focal()}}, "it must be a class"),
        ({"LOSSES": {"my-focal": Clashing}}, "epochs is a key already"),
        ({"LOSSES": {"my-focal": Alphabetic}}, "alpha is a key already"),
        ({"LOSSES": {"my-focal": Unknown}}, "schema"),
        ({"TOWERS": {"my-even": Focal}}, r"subclass of torch\.nn\.Module"),
        ({"CHANNELS": {"walk": Focal}}, "it lacks answered, "),
        ({"INDEXES": {"near": Focal}}, "it lacks add, build"),
        ({"INDEXES": {"near": Vague}}, "a recipe cannot set its width: annotate"),
        ({"METRICS": {"first": 3}}, "it must be a function"),
        ({"LOSES": {"my-focal": Focal}}, "there is no table 'LOSES'"),
        ({"LOSSES": [Focal]}, "LOSSES must map names to parts"),
        ({"LOSSES": LOSSES}, "is Shortlist's own table"),
        ({}, "has no parts"),
        (3, "a plug-in is a module"),
        ("own_missing.parts", "there is no module own_missing"),
        ("./own_parts.py", r"is a path: write the name of its module, own_parts, .*PYTHONPATH=\."),
        ("own_parts.py", r"is a path: write the name of its module, own_parts, .*PYTHONPATH=\."),
        ("a b", "is no name of a module"),
        ("", "is no name of a module"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused_and_nothing_of_it_stays(plugin, words):
    before = {name: dict(table.parts) for name, table in TABLES.items()}
    keys = set(Training.model_fields)
    both = (
        {"METRICS": {"good": my_first_hit}, **plugin}
        if isinstance(plugin, dict) and plugin
        else plugin
    )
    with pytest.raises(PluginError, match=words):
        use_plugins([both])
    assert {name: dict(table.parts) for name, table in TABLES.items()} == before
    assert set(Training.model_fields) == keys
    assert not OWN


def test_one_plug_in_that_is_no_list_is_refused():
    for plugin in ("own_parts", plugins, MINE):
        with pytest.raises(PluginError, match="plugins must be a list"):
            use_plugins(plugin)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 / 0", r"cannot be imported: ZeroDivisionError.*own_broken\.py, line 1"),
        ("import own_missing", r"cannot be imported: ModuleNotFoundError.*own_missing"),
        ("import sys\nsys.exit(3)", "cannot be imported: SystemExit"),
        ("def f(:", r"cannot be imported: SyntaxError: .*\(own_broken\.py, line 1\)$"),
        ("x = 1", "own_broken has no parts: write one of the tables LOSSES"),
    ],
)
def test_a_module_that_breaks_is_told_with_the_line(text, words, tmp_path, monkeypatch, capsys):
    name = module(tmp_path, monkeypatch, "own_broken", text)
    with pytest.raises(PluginError, match=words):
        use_plugins([name])
    code, said = command(monkeypatch, capsys, "inspect", tmp_path, "--plugin", name)
    assert (code, said.count("error:")) == (2, 1)
    assert "Traceback" not in said


# Metrics.


def test_a_metric_of_one_evaluation_stands_beside_the_others_under_its_own_name(split):
    channel = Popular().fit(split)
    report = evaluate(channel, k=[5], metrics=[my_first_hit])
    assert 0 <= report.metrics["my_first_hit@5"].mean <= report.metrics["hit_rate@5"].mean
    assert "my_first_hit@5" in report.to_dict()["metrics"]
    assert "my_first_hit@5" not in evaluate(channel, k=[5]).metrics


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda found, relevant: found[:, 0], "a function with a name"),
        ("ndcg", "a function with a name"),
        (3, "a function with a name"),
    ],
)
def test_a_metric_without_a_name_is_refused(metric, words, split):
    with pytest.raises(ModelError, match=words):
        evaluate(Popular().fit(split), k=[5], metrics=[metric])


def test_a_metric_that_gives_no_number_for_each_user_is_refused_by_its_name(split):
    channel = Popular().fit(split)

    def wide(found, relevant):
        return found

    def endless(found, relevant):
        return np.full(len(found), np.inf)

    def recall(found, relevant):
        return np.zeros(len(found))

    with pytest.raises(ModelError, match="the metric wide must give one number a user"):
        evaluate(channel, k=[5], metrics=[wide])
    with pytest.raises(ModelError, match="the metric endless gave a figure that is not finite"):
        evaluate(channel, k=[5], metrics=[endless])
    with pytest.raises(ModelError, match="there is a metric 'recall' already"):
        evaluate(channel, k=[5], metrics=[recall])


# The command line, and the page that shows all of it.


def command(monkeypatch, capsys, *arguments):
    """Run the command line in this process; return its exit code and all it said."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["shortlist", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_every_command_that_reads_a_recipe_or_a_bundle_takes_plug_ins(monkeypatch, capsys):
    from typer.main import get_command

    from shortlist.cli.app import app

    found = dict(get_command(app).commands)
    groups = {name: group.commands for name, group in found.items() if hasattr(group, "commands")}
    commands = {(name,): each for name, each in found.items() if name not in groups}
    commands |= {(g, name): each for g, some in groups.items() for name, each in some.items()}
    takes = {words for words, each in commands.items() if "plugin" in {p.name for p in each.params}}
    reads = {
        w
        for w, each in commands.items()
        if {"recipe", "bundle", "bundles"} & {p.name for p in each.params}
    }
    reads -= {("demo",), ("data",)}  # these write one
    assert reads | {("init",), ("doctor",)} == takes
    for words in takes:
        needed = [p.opts[-1] for p in commands[words].params if p.required]
        given = [word for name in needed for word in ([name] if name[0] == "-" else []) + ["x"]]
        code, said = command(monkeypatch, capsys, *words, *given, "--plugin", "own_missing")
        assert (code, "there is no module own_missing" in said) == (2, True), (words, said)


@pytest.mark.parametrize("page", ["own-parts.md", "own-parts.zh.md"])
def test_the_page_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    text = (GUIDE / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    python = [code for kind, code in blocks if kind == "python"]
    parts = [code for code in python if code.startswith("# my_parts.py")]
    (tmp_path / "my_parts.py").write_text("\n\n".join(parts), encoding="utf-8")
    world = planted_world(users=80, items=60, events=900, seed=3)
    world.interactions.write_csv(tmp_path / "log.csv")
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        for kind, code in blocks:
            if kind == "toml":
                (tmp_path / "recipe.toml").write_text(code, encoding="utf-8")
        for kind, code in blocks:
            if kind == "sh":
                lines = [line for line in code.splitlines() if line.startswith("shortlist ")]
                for line in lines:
                    ended, said = command(monkeypatch, capsys, *line.split()[1:])
                    assert ended == 0, said
        names: dict[str, object] = {}
        exec(compile("".join(code for code in python if code not in parts), page, "exec"), names)
        run = shortlist.train("recipe.toml", "bundle-by-train", plugins=["my_parts"])
        assert run.report.metrics["my_first_hit@10"].mean >= 0
        explained = names["again"].explain([10_001], [names["again"].recommend([10_001], 3).ids[0]])
        assert len(explained)
        assert shortlist.load("bundle").retriever.channels.keys() == {"towers", "walk"}
    finally:
        sys.modules.pop("my_parts", None)
