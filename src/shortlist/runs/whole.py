"""A recipe carried out whole: read, split, trained, measured, examined and saved as a bundle."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist import outputs
from shortlist.asking.capabilities import Channel
from shortlist.bundle.bundle import check_without_log, save_or_keep
from shortlist.config import Recipe, load_recipe
from shortlist.data.dataset import Split
from shortlist.doctor import Finding, Subject, examine
from shortlist.errors import RecipeError
from shortlist.evaluation.report import Report
from shortlist.histories.events import Watermark
from shortlist.histories.export import learned_with
from shortlist.outputs import Output
from shortlist.plugins import Plugin, use_plugins
from shortlist.runs import pipeline
from shortlist.runs.tracking import (
    Track,
    Tracker,
    check_trackers,
    flat,
    places_of,
    tracked,
    trackers_of,
)
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.progress import Progress
from shortlist.training.ranks import here, together


@dataclass(frozen=True)
class Run:
    """What became of a recipe.

    bundle: the id of the saved bundle. retriever: what is in it. report: its figures on the test
    rows. findings: what the doctor found in the training. Where several processes train together
    the first one alone has figures and findings.
    """

    bundle: str
    retriever: Channel
    report: Report
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the id, the report and the findings as one JSON-safe object."""
        findings = [finding.to_dict() for finding in self.findings]
        costs = {"costs": self.report.costs_dict()}
        return {"bundle": self.bundle, **self.report.to_dict(), **costs, "findings": findings}


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    watermark: Watermark | None = None,
    items_watermark: Watermark | None = None,
    overwrite: bool = False,
    plugins: Iterable[Plugin] = (),
    log: bool = True,
    track: Iterable[Track] = (),
) -> Run:
    """Train a recipe, measure it on its test rows and save it: what `shortlist train` does.

    recipe: a recipe or its file; overrides: "section.key=value", of a file. out: the folder of the
    bundle, which appears whole or not at all; one that exists is refused unless `overwrite` is set.
    checkpoints: where towers are saved while they train; removed once the bundle is there.
    watermark: the last event of a store that is in the log, as `events export` tells it; by
    default what such files among the inputs say. items_watermark: the last change of items that
    the items table has, as the service lists it. plugins: modules, or their names, with parts that
    are not Shortlist's: see `use_plugins`. log: whether the bundle keeps the events. track: who is
    told of parameters and figures, such as ["tensorboard=logs"]: see `shortlist.runs.tracking`.
    Paths, keys and trackers are checked before anything is read. Errors: RecipeError, DataError,
    ModelError, TrainingError, OutputError, BundleError, PluginError, QueryError, TrackingError.

    Under torchrun all its processes train one model, and the first one saves it.

        run = shortlist.train("recipe.toml", "runs/first")
        print(run.report.table())
    """
    use_plugins(plugins)
    inputs = {}
    if not isinstance(recipe, Recipe | str | Path):
        raise RecipeError(
            f"recipe must be a path or a Recipe, got {type(recipe).__name__}; of a dict, "
            "shortlist.config.Recipe.from_dict makes one"
        )
    if not isinstance(recipe, Recipe):
        inputs["the recipe"] = Path(recipe)
        recipe = load_recipe(Path(recipe), list(overrides))
    elif overrides:
        raise RecipeError("overrides are for the file of a recipe: change the recipe itself")
    target = Output(Path(out), "bundle", overwrite=overwrite)
    trackers = trackers_of(track)
    outputs.check({"out": target, **places_of(trackers)}, {**inputs, **recipe.inputs})
    pipeline.check(recipe)
    with together():
        check_trackers(trackers)
        pipeline.check_together(recipe)
        return carry_out(
            *(recipe, pipeline.load_split(recipe), out),
            device=device,
            progress=progress,
            checkpoints=checkpoints,
            watermark=watermark,
            items_watermark=items_watermark,
            overwrite=overwrite,
            log=log,
            trackers=trackers,
        )


def carry_out(
    recipe: Recipe,
    split: Split,
    out: str | Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    watermark: Watermark | None = None,
    items_watermark: Watermark | None = None,
    overwrite: bool = False,
    retriever: Channel | None = None,
    log: bool = True,
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Train on a split that is there, measure, examine and save; the arguments are as in `train`.

    retriever: the one to fit, as `pipeline.build` makes it of the recipe. log: whether the bundle
    keeps the events, as `bundle.save` has it. trackers: as `tracking.trackers_of` makes them.

    A trained model is kept whatever the doctor runs into, and where `out` cannot be written it is
    kept elsewhere, as the error says.
    """
    if watermark is None:
        watermark = learned_with(None, recipe.inputs.values())
    if not log:
        check_without_log(pipeline.build(recipe) if retriever is None else retriever)
    ranks = here()
    with tracked(
        trackers if ranks.first else (),
        progress,
        out=out,
        parameters=recipe.to_dict(),
        checkpoints=None if checkpoints is None else checkpoints.directory,
    ) as (tracking, told):
        trained = pipeline.train(
            *(recipe, split),
            device=device,
            progress=told,
            checkpoints=checkpoints,
            retriever=retriever,
        )
        description = pipeline.settled(recipe, trained.retriever).to_dict()
        asked = flat(recipe.to_dict())
        settled = {key: v for key, v in flat(description).items() if asked.get(key) != v}
        tracking.parameters({f"auto.{key}": value for key, value in settled.items()})
        tracking.tested(trained.report)
    if not ranks.first:
        return Run(ranks.told_text(""), trained.retriever, trained.report)
    report = trained.report.to_dict()
    findings: list[Finding] = []
    try:
        findings = examine(Subject.of_retriever(trained.retriever, report, description))
    finally:
        identity = save_or_keep(
            *(trained.retriever, out),
            metrics=report,
            recipe=description,
            findings=[finding.to_dict() for finding in findings],
            watermark=watermark,
            items_watermark=items_watermark,
            log=log,
            overwrite=overwrite,
        )
    if checkpoints is not None:
        checkpoints.remove()
    if ranks.several:
        ranks.told_text(identity)
    return Run(identity, trained.retriever, trained.report, tuple(findings))
