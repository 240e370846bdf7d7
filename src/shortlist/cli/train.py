"""Commands that train: demo, train, tune and plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist import outputs
from shortlist.cli.options import (
    Device,
    ItemsWatermarkText,
    JsonFlag,
    Overwrite,
    QuietFlag,
    WatermarkText,
    WithoutLog,
)
from shortlist.cli.screen import (
    notes,
    notes_unless,
    out,
    print_json,
    print_lines,
    problems,
    progress_bars,
)
from shortlist.errors import PeerError, QueryError, TrainingError
from shortlist.outputs import Output, output_at

if TYPE_CHECKING:
    from shortlist.config import Recipe
    from shortlist.data.dataset import Split
    from shortlist.doctor import TrainingWatch
    from shortlist.evaluation.evaluate import Untrained
    from shortlist.histories.events import Watermark
    from shortlist.runs.several import Several
    from shortlist.runs.tracking import Tracker
    from shortlist.runs.whole import Run
    from shortlist.training.checkpoint import Checkpoints


def demo(
    context: typer.Context,
    data: Annotated[
        Path | None, typer.Option(help="Folder with MovieLens-100K; nothing is downloaded.")
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Use generated data, which needs no network.")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With --synthetic: less data, trained in seconds.")
    ] = False,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Directory of the bundle. Default: runs/demo, where it replaces an earlier demo.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and negatives.")] = 0,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Train on MovieLens-100K, show ten titles for one user, and compare with popularity.

    Downloads the data once (from GroupLens, else from the published RecBole wheel) and caches it.
    """
    if synthetic and data is not None:
        raise QueryError("--data is MovieLens-100K, and --synthetic reads no data: give one")
    if small and not synthetic:
        raise QueryError("--small does nothing without --synthetic")

    from shortlist.asking.queries import Queries
    from shortlist.bundle.bundle import load, save_or_keep
    from shortlist.cli import show
    from shortlist.cli.demo import PLACE, is_demo, run, someone, world

    bundle = target or PLACE
    overwrite = overwrite or (target is None and is_demo(bundle))
    outputs.check({"--out": Output(bundle, "bundle", overwrite=overwrite)}, {"--data": data})
    quiet = quiet or context.obj["quiet"]
    say = notes_unless(quiet).print
    chosen = world(data, synthetic=synthetic, small=small, seed=seed)
    for line in chosen.lines:
        say(line)
    with progress_bars(quiet) as progress:
        result = run(chosen, device=device or context.obj["device"], progress=progress)
    save_or_keep(
        result.retriever,
        bundle,
        metrics=result.report.to_dict(),
        recipe=chosen.recipe.to_dict(),
        overwrite=overwrite,
    )
    loaded = load(bundle)
    user = someone(loaded.retriever.data)
    out.print(show.recommendations(loaded.retriever, Queries([user]), k=10))
    out.print(*show.measured(result.report), sep="\n")
    for line in result.report.lines():
        say(line)
    say(f"Saved as {bundle}. Next: shortlist recommend {bundle} --user {user}")
    say(f"To look around: shortlist serve {bundle}, then open http://127.0.0.1:8000")


def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; see `shortlist init`.")],
    bundle: Annotated[Path, typer.Option("--out", help="New directory of the bundle.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value replaces a value of the recipe. May be repeated."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same as --set training.seed=N.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Train with this many seeds, from the recipe's seed upwards. Each makes a bundle "
            "below --out; figures over all are printed. After a stop, the same command continues.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    without_log: WithoutLog = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder where the training is saved while it runs. After a kill, the same "
            "command continues from there. The folder is removed at the end."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option("--checkpoint-every", min=0.0, help="Seconds between saves. Default: 300."),
    ] = None,
    watermark: WatermarkText = None,
    items_watermark: ItemsWatermarkText = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Also send parameters and the figures of each epoch to a tracker: "
            "tensorboard=FOLDER, mlflow=ADDRESS, or mlflow. May be repeated."
        ),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Train a recipe, evaluate it beside popularity on the full catalogue, and save a bundle."""
    if every is not None and checkpoint is None:
        raise QueryError("--checkpoint-every does nothing without --checkpoint")
    if seeds is not None and checkpoint is not None:
        raise QueryError("--checkpoint is for one training; --seeds continues with the next seed")

    from shortlist.config import Recipe, load_recipe
    from shortlist.doctor import TrainingWatch
    from shortlist.evaluation.evaluate import Untrained
    from shortlist.histories.events import Watermark
    from shortlist.runs.folds import train_folds
    from shortlist.runs.pipeline import check, check_together, folds_of, load_dataset
    from shortlist.runs.seeds import check_seeds, train_seeds
    from shortlist.runs.tracking import check_trackers, places_of, trackers_of
    from shortlist.runs.whole import Run
    from shortlist.training.ranks import together

    context.with_resource(together())
    mark, items_mark = (
        None if text is None else Watermark.parse(text) for text in (watermark, items_watermark)
    )
    quiet = quiet or context.obj["quiet"]
    own_seed = [] if seed is None else [f"training.seed={seed}"]
    read = load_recipe(recipe, [*(overrides or []), *own_seed])
    several, trackers = _is_of_several(read, seeds, checkpoint), trackers_of(track or ())
    outputs.check(
        {
            "--out": Output(bundle, "folder" if several else "bundle", overwrite=overwrite),
            "--checkpoint": output_at(checkpoint, "folder"),
            **{f"--{name}": place for name, place in places_of(trackers).items()},
        },
        {"the recipe": recipe, **read.inputs},
    )
    check_trackers(trackers)
    check(read)
    check_together(read)
    if seeds is not None:
        check_seeds(read, seeds)
    checkpoints = _checkpoints(read, checkpoint, every)
    dataset = load_dataset(read)
    splits, untrained = folds_of(read, dataset), Untrained()
    if not quiet:
        _warn_of_bfloat16(read, device or context.obj["device"])
        for line in dataset.report.lines():
            notes.print(line)

    said: set[str] = set()

    def carried_out(one: Recipe, target: Path, split: "Split" = splits[0]) -> Run:
        if several and not quiet:
            notes.print(f"{split.notes[0] if seeds is None else _seed_of(one)}.")
        with progress_bars(quiet) as progress:
            run = _carried_out(
                *(one, split, target),
                device=device or context.obj["device"],
                watch=TrainingWatch(progress),
                checkpoints=checkpoints,
                watermark=mark,
                items_watermark=items_mark,
                overwrite=overwrite,
                log=not without_log,
                trackers=trackers,
                untrained=untrained,
            )
        return _shown(run, said) if several and not quiet else run

    if several:
        found = (
            train_folds(
                *(read, bundle),
                folds=splits,
                train=lambda split, target: carried_out(read, target, split),
                overwrite=overwrite,
            )
            if seeds is None
            else train_seeds(read, bundle, seeds, carried_out, overwrite=overwrite)
        )
        if json_:
            print_json(found.to_dict())
        else:
            _show_several(found, quiet=quiet)
        return
    run = carried_out(read, bundle)
    if json_:
        print_json(run.to_dict())
    else:
        _show_run(run, bundle, quiet=quiet)


def _seed_of(recipe: "Recipe") -> str:
    return f"training with seed {recipe.training.seed}"


def _shown(run: "Run", said: set[str]) -> "Run":
    """Print the findings and chosen sizes of one of several trainings that no earlier one had.

    said: codes of findings, and lines, that were printed; this call adds its own.
    """
    from shortlist.cli import show

    if found := [finding for finding in run.findings if finding.code not in said]:
        notes.print(show.findings(found))
    lines = [line for line in show.chosen_lines(run.retriever) if line not in said]
    for line in lines:
        notes.print(line)
    said.update(lines, (finding.code for finding in found))
    return run


def _show_several(found: "Several", *, quiet: bool) -> None:
    """Print the results of several trainings as tables."""
    from shortlist.cli import show

    out.print(*show.measured(found.whole, found.table(), found.each_table()), sep="\n")
    if not quiet:
        for line in found.whole.lines():
            notes.print(line)
        *_, last = found.bundles.values()
        if found.of == "fold":
            notes.print(f"The bundle of the last fold, {last}, has learned from most of the log.")


def _show_run(run: "Run", bundle: Path, *, quiet: bool) -> None:
    """Print the results of a training as tables."""
    from shortlist.blending.blend import Blend
    from shortlist.cli import show

    if not quiet and isinstance(run.retriever, Blend) and run.retriever.plan is not None:
        notes.print(show.planned(run.retriever.plan))
    out.print(*show.measured(run.report), sep="\n")
    if not quiet:
        if run.findings:
            notes.print(show.findings(run.findings))
        for line in (*run.report.lines(), *show.chosen_lines(run.retriever)):
            notes.print(line)
        notes.print(f"Saved as {bundle} ({run.bundle[:12]}).")


def _is_of_several(recipe: "Recipe", seeds: int | None, checkpoint: Path | None) -> bool:
    """Tell whether a training makes several bundles. Errors: QueryError for unfitting options."""
    rolling = recipe.split_kind == "rolling"
    if rolling and (seeds is not None or checkpoint is not None):
        given = "--checkpoint" if seeds is None else "--seeds"
        raise QueryError(
            f'{given} is for one split, and split.kind = "rolling" trains several: the same '
            "command continues with the next fold"
        )
    return rolling or seeds is not None


def _warn_of_bfloat16(recipe: "Recipe", device: str) -> None:
    """Warn, before a long training, that the chosen precision is slow on this device."""
    from shortlist.runs.pipeline import is_slow_in_bfloat16
    from shortlist.training.precision import SLOW

    if is_slow_in_bfloat16(recipe, device):
        notes.print(f"warning: {SLOW}", highlight=False, markup=False, soft_wrap=True)


def _checkpoints(
    recipe: "Recipe", folder: Path | None, every: float | None
) -> "Checkpoints | None":
    """Return the checkpoints that --checkpoint and --checkpoint-every describe."""
    from shortlist.runs.pipeline import check_resumable
    from shortlist.training.checkpoint import EVERY, Checkpoints

    if folder is None:
        return None
    check_resumable(recipe)
    return Checkpoints(folder, every=EVERY if every is None else every)


def _carried_out(
    recipe: "Recipe",
    split: "Split",
    bundle: Path,
    *,
    device: str,
    watch: "TrainingWatch",
    checkpoints: "Checkpoints | None",
    watermark: "Watermark | None",
    items_watermark: "Watermark | None",
    overwrite: bool,
    log: bool,
    trackers: Sequence["Tracker"],
    untrained: "Untrained",
) -> "Run":
    """Train; if it diverges, print the doctor's findings, and after Ctrl-C how to continue."""
    from shortlist.cli import show
    from shortlist.doctor import Subject, examine
    from shortlist.runs.whole import carry_out

    try:
        return carry_out(
            *(recipe, split, bundle),
            device=device,
            progress=watch,
            checkpoints=checkpoints,
            watermark=watermark,
            items_watermark=items_watermark,
            overwrite=overwrite,
            log=log,
            trackers=trackers,
            untrained=untrained,
        )
    except KeyboardInterrupt:
        if checkpoints is not None and checkpoints.saved:
            problems.print(f"The same command continues from {checkpoints.directory}.")
        raise
    except PeerError:
        raise  # another process failed; the doctor has nothing to examine here
    except TrainingError as failure:
        problems.print(show.findings(examine(Subject.of_recipe(recipe, split, watch, failure))))
        raise


def tune(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe with a [tune] section.")],
    target: Annotated[
        Path, typer.Option("--out", help="Folder of the trials; an existing one is continued.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value replaces a value of the recipe. May be repeated."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of trials, with those in the folder. Default: that of [tune]."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot the trials: a .png, .svg or .pdf file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a plot that already exists.")
    ] = False,
    json_: JsonFlag = False,
    device: Device = None,
    quiet: QuietFlag = False,
) -> None:
    """Try values of a recipe's keys on the validation rows; write the best recipe as best.toml.

    Weak trials end early. After a stop, the same command continues.
    """
    if plot is None and overwrite:
        raise QueryError("--overwrite does nothing without --plot")

    from shortlist.config import load_recipe
    from shortlist.evaluation.plots import plot_output
    from shortlist.runs import tuning

    quiet = quiet or context.obj["quiet"]
    read = load_recipe(recipe, overrides or [])
    best = Output(target / tuning.BEST, overwrite=True) if target.is_dir() else None
    outputs.check(
        {
            "--out": Output(target, "folder"),
            f"{tuning.BEST} of --out": best,
            "--plot": plot_output(plot, overwrite=overwrite),
        },
        {"the recipe": recipe, **read.inputs},
    )

    if not quiet:
        _warn_of_bfloat16(read, device or context.obj["device"])

    def told(trial: tuning.Trial) -> None:
        if not quiet:
            notes.print(trial.line())

    with progress_bars(quiet) as progress:
        try:
            found = tuning.tune(
                *(read, target),
                trials=trials,
                device=device or context.obj["device"],
                progress=progress,
                told=told,
            )
        except KeyboardInterrupt:
            problems.print(f"The same command continues from {target}.")
            raise
    if plot is not None:
        tuning.plot_trials(found, plot, overwrite=overwrite)
    if json_:
        print_json({"recipe": str(target / tuning.BEST), **found.to_dict()})
        return
    out.print(f"Best by validation {found.monitor}: {found.best.line()}")
    notes.print(f"Next: shortlist train {target / tuning.BEST} --out BUNDLE")


def plan(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe with two [channels] or more.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Number of candidates per query. Default: 100.")
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="Largest total time of the chosen channels per query, in microseconds."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value replaces a value of the recipe. May be repeated."
        ),
    ] = None,
    json_: JsonFlag = False,
    device: Device = None,
) -> None:
    """Fit the channels of a recipe and measure what each adds on the validation rows.

    Prints unique hits, overlap, marginal recall per 100 slots and cost of each channel, and the
    best quotas for a number of candidates and a time. Nothing is saved: put the quotas in [blend].
    """
    from shortlist.blending.blend import Blend
    from shortlist.blending.planning import check_latency
    from shortlist.blending.planning import plan as plan_channels
    from shortlist.cli import show
    from shortlist.config import load_recipe
    from shortlist.runs.pipeline import build, check, load_split

    check_latency(latency)
    read = load_recipe(recipe, overrides or [])
    check(read)
    blend = build(read, device or context.obj["device"])
    if not isinstance(blend, Blend):
        raise QueryError("a plan needs two [channels] or more in the recipe")
    split = load_split(read)
    with progress_bars(context.obj["quiet"] or json_) as progress:
        for channel in blend.channels.values():
            channel.fit(split, "train", progress=progress)
    asked = {n: c for n, c in blend.channels.items() if n not in blend.options.fallback}
    found = plan_channels(
        asked,
        size or blend.options.size or 100,
        latency=blend.options.latency if latency is None else latency,
    )
    if json_:
        print_json(found.to_dict())
    else:
        out.print(show.planned(found))
        quotas = ", ".join(f"{name} = {slots}" for name, slots in found.quotas.items())
        print_lines(notes, f"[blend]\nquotas = {{ {quotas} }}")
