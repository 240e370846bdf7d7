"""How does a recipe become a bundle? Read, split, train, measure, check with the doctor, save."""

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
from shortlist.evaluation.evaluate import Untrained
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
    """The result of training a recipe.

    When several processes train together, only the first one has figures and findings.

    Attributes:
        bundle: id of the saved bundle.
        retriever: the trained retriever, as the bundle holds it.
        report: its figures on the test rows.
        findings: problems of the training that the doctor found.
    """

    bundle: str
    retriever: Channel
    report: Report
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the id, the report, its summary and the findings as one JSON-safe object."""
        findings = [finding.to_dict() for finding in self.findings]
        return {"bundle": self.bundle, **self.report.told(), "findings": findings}


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
    """Train a recipe, measure it on its test rows and save it, as `shortlist train` does.

    Paths, keys and trackers are checked before any data is read. Under torchrun all processes train
    one model, and the first one saves it.

        run = shortlist.train("recipe.toml", "runs/first")
        print(*run.report.in_short(), sep="\n")

    Args:
        recipe: a Recipe, or the path of its file.
        out: folder of the bundle. It is written completely or not at all.
        overrides: "section.key=value" settings that replace those of the recipe's file.
        device: where towers are trained, such as "cpu" or "cuda".
        progress: receives the progress of the training; None shows nothing.
        checkpoints: where the state of the towers is saved during training. The checkpoints are
            removed after the bundle is saved.
        watermark: position in an event store up to which the log holds its events, as `events
            export` prints it. Default: the watermark that the input files hold, if any.
        items_watermark: the last change of items that the items table contains, as the service
            lists it.
        overwrite: replaces a bundle that exists at `out`; otherwise it is refused.
        plugins: modules, or their names, that add parts to Shortlist; see `use_plugins`.
        log: whether the bundle keeps the events.
        track: trackers that receive parameters and figures, such as ["tensorboard=logs"]; see
            `shortlist.runs.tracking`.

    Raises:
        RecipeError: for an invalid recipe or override.
        DataError: for data that cannot be read.
        ModelError: for options that do not work together.
        TrainingError: for a loss that is not finite.
        OutputError: for an `out` that exists or cannot be written.
        BundleError: for a retriever that cannot be saved.
        PluginError: for a plugin that cannot be used.
        QueryError: for a `track` that names no tracker.
        TrackingError: for a tracker that cannot be reached.
    """
    use_plugins(plugins)
    inputs = {}
    if not isinstance(recipe, Recipe | str | Path):
        raise RecipeError(
            f"recipe must be a path or a Recipe, got {type(recipe).__name__}; "
            "shortlist.config.Recipe.from_dict makes a Recipe of a dict"
        )
    if not isinstance(recipe, Recipe):
        inputs["the recipe"] = Path(recipe)
        recipe = load_recipe(Path(recipe), list(overrides))
    elif overrides:
        raise RecipeError(
            "overrides apply only to the file of a recipe, and recipe is a Recipe: change its keys"
        )
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
    untrained: Untrained | None = None,
) -> Run:
    """Train on a given split, measure, check with the doctor and save. See `train` for the rest.

    retriever: the retriever to fit; None builds it from the recipe with `pipeline.build`.
    log: whether the bundle keeps the events, as in `bundle.save`.
    trackers: the trackers, from `tracking.trackers_of`.
    untrained: see `pipeline.train`.

    The trained model is saved even if the doctor fails. If `out` cannot be written, the model is
    saved in another place, which the error names.
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
        checkpoints=checkpoints,
    ) as (tracking, reported):
        trained = pipeline.train(
            *(recipe, split),
            device=device,
            progress=reported,
            checkpoints=checkpoints,
            retriever=retriever,
            untrained=untrained,
        )
        description = pipeline.settled(recipe, trained.retriever).to_dict()
        asked = flat(recipe.to_dict())
        settled = {key: v for key, v in flat(description).items() if asked.get(key) != v}
        if recipe.channels:  # [model] and [training] have numbers there that no channel takes
            settled = {k: v for k, v in settled.items() if k.startswith("channels.")}
        tracking.parameters({f"auto.{key}": value for key, value in settled.items()})
        tracking.tested(trained.report)
        if not ranks.first:
            return Run(ranks.text_from_first(""), trained.retriever, trained.report)
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
        ranks.text_from_first(identity)
    return Run(identity, trained.retriever, trained.report, tuple(findings))
