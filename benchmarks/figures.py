"""Writes docs/figures.md from the lines of `records.py`.

    python benchmarks/figures.py

The page shows means over seeds, from the newest line of each cell, and published figures of others
with their source. A source that is "not recorded" came without its paper.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from records import DEAR, PROTOCOLS, ROOT, Cell, cells, made, missing

PAGE = ROOT / "docs" / "figures.md"

SHOWN = {"gowalla-lightgcn": ("recall@20", "ndcg@20")}
"""The two metrics shown for a data set; all others show HR@10 and NDCG@10."""

NAMES = {"recall": "Recall", "hit_rate": "HR", "ndcg": "NDCG"}


INTRODUCTION = """\
All figures rank the whole catalogue without seen items. The rows come from
[records.jsonl](../benchmarks/results/records.jsonl), which `python benchmarks/records.py` writes.
*fit* names the rows that the model learned from; published figures of others use the train rows
alone unless a note says otherwise. A figure of several seeds is their mean, ± the standard
deviation of one seed. CPU seconds are of one thread. They include the validation that chooses the
epoch; where a model is trained again, they are of the second fit alone. A query is one of 2,000
that are answered together, with 200 items each."""


class Published(NamedTuple):
    """Figures of others on the same split.

    source: the paper that reports them.
    note: what to know before comparing.
    """

    model: str
    first: str
    second: str
    source: str
    note: str = ""


LOSSES = "Klenitskiy & Vasilev, RecSys 2023"
SIMPLEX = "Mao et al., CIKM 2021 (SimpleX)"
ESASREC = "Tikhonovich et al., RecSys 2025 (arXiv:2508.06450)"
UNKNOWN = "not recorded"
NEW_ITEM = "52 users with a new item left out"

PUBLISHED = {
    "ml-1m": (
        Published("SASRec, BCE, 1 negative", ".2392", ".1259", UNKNOWN),
        Published("BERT4Rec", ".2843", ".1537", LOSSES),
        Published("gSASRec", ".3003", ".1726", "Petrov & Macdonald, RecSys 2023"),
        Published("SASRec, full cross-entropy", ".3152", ".1821", LOSSES),
        Published("SASRec, 3,000 negatives", ".3159", ".1857", LOSSES, "sampled cross-entropy"),
        Published(
            *("HSTU-large", ".3294", ".1893", "Zhai et al., ICML 2024"),
            "another file; trained on the validation event, too",
        ),
        Published(
            *("HSTU, 8 blocks", ".3642", ".2164", UNKNOWN),
            "another file; the time of the test event is read",
        ),
    ),
    "amazon-beauty-s3rec": (
        Published("SASRec, as first published", ".0605", ".0318", "Zhou et al., CIKM 2020"),
        Published("TIGER", ".0648", ".0384", "Rajput et al., NeurIPS 2023"),
        Published("HSTU", ".0788", ".0439", UNKNOWN),
        Published("DuoRec", ".0845", ".0443", "Qiu et al., WSDM 2022"),
        Published("SASRec, sampled softmax", ".0921", ".0531", ESASREC, NEW_ITEM),
        Published("eSASRec", ".0928", ".0523", ESASREC, NEW_ITEM),
    ),
    "gowalla-lightgcn": (
        Published("MF-BPR", ".1627", ".1378", SIMPLEX),
        Published("YouTubeDNN", ".1754", ".1473", SIMPLEX),
        Published("LightGCN", ".1830", ".1554", SIMPLEX),
        Published("UltraGCN", ".1862", ".1580", "Mao et al., CIKM 2021 (UltraGCN)"),
        Published("SimpleX", ".1872", ".1557", SIMPLEX),
        Published("Adap-τ", ".1901", ".1590", "Chen et al., WWW 2023", "the best trained one"),
        Published("BSPM-EM", ".1920", ".1597", "Choi et al., SIGIR 2023", "without training"),
        Published(
            *("ChebyCF", ".1941", ".1616", "Kim et al., SIGIR 2025"),
            "without training; options without validation rows",
        ),
    ),
}


def page(lines: Sequence[dict[str, Any]], wanted: Sequence[Cell]) -> str:
    """Return the page of these lines. wanted: all cells, so that missing ones are listed."""
    text = [
        "<!-- Written by `python benchmarks/figures.py`; a test keeps it true. -->",
        "",
        "# Figures",
        "",
        *INTRODUCTION.splitlines(),
    ]
    for name, protocol in PROTOCOLS.items():
        own = [line for line in lines if line["set"] == name]
        text += ["", f"## {name}", "", f"{protocol[0].upper()}{protocol[1:]}.", ""]
        if own:
            text += [*_table(name, own), "", *_ladder(name, own)]
        if name in PUBLISHED:
            text += _published(name)
    left = missing(wanted, lines)
    if left:
        text += ["", "## Not run", "", *_left(left)]
    whole = "\n".join(text)
    return re.sub("\n{3,}", "\n\n", whole).rstrip() + "\n"


def _table(name: str, lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    first, second = SHOWN.get(name, ("hit_rate@10", "ndcg@10"))
    heads = [_title(first), _title(second), "Recall@100", "Recall@200"]
    yield (
        "| recipe | channel | fit | seeds | " + " | ".join(heads) + " | fit CPU s | query CPU µs |"
    )
    yield "|---|---|---|---|" + "---|" * (len(heads) + 2)
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for line in lines:  # a later line of a cell takes the place of an earlier one
        key = (line["recipe"], line["row"], line["fit"])
        newest = groups.setdefault(key, {})
        if any(other["digest"] != line["digest"] for other in newest.values()):
            newest.clear()
        newest[line["seed"]] = line
    for (recipe, row, fit), of_seed in sorted(groups.items(), key=lambda one: _order(one, second)):
        some = list(of_seed.values())
        shown = [_figure([line["metrics"][metric] for line in some]) for metric in (first, second)]
        deep = [_figure([line["metrics"][f"recall@{k}"] for line in some]) for k in (100, 200)]
        fits = [line["fit_cpu_seconds"] for line in some]
        asked = [line["query_cpu_microseconds"] for line in some]
        precision = {line["precision"] for line in some} - {None, "float32"}
        what = row + (f" ({', '.join(sorted(precision))})" if precision else "")
        cells = [recipe, what, fit, str(len(some)), *shown, *deep]
        yield f"| {' | '.join(cells)} | {_mean(fits):,.1f} | {_mean(asked):,.0f} |"
    processors = sorted({line["cpu"] for line in lines})
    yield ""
    yield f"Processor: {', '.join(processors)}. Commits: {_commits(lines)}."


def _ladder(name: str, lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the gain of towers over methods without training, paired by user, for seed 0."""
    second = SHOWN.get(name, ("hit_rate@10", "ndcg@10"))[1]
    newest = {
        (line["recipe"], line["row"]): line
        for line in lines
        if line.get("ladder") and line["seed"] == 0
    }
    if not newest:
        return
    rungs = list(dict.fromkeys(rung["name"] for one in newest.values() for rung in one["ladder"]))
    yield f"What towers add to methods without training: {_title(second)}, paired by user, with the"
    yield "95 % interval; seed 0."
    yield ""
    yield f"| recipe | channel | {' | '.join(rungs)} |"
    yield "|---|---|" + "---|" * len(rungs)
    for (recipe, row), line in newest.items():
        found = {rung["name"]: rung["difference"][second] for rung in line["ladder"]}
        cells = [
            "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**found[rung]) if rung in found else ""
            for rung in rungs
        ]
        yield f"| {recipe} | {row} | {' | '.join(cells)} |"
    yield ""


def _order(one: tuple[Any, dict[int, dict[str, Any]]], metric: str) -> float:
    return _mean([line["metrics"][metric] for line in one[1].values()])


def _published(name: str) -> Iterator[str]:
    first, second = SHOWN.get(name, ("hit_rate@10", "ndcg@10"))
    yield "Published by others on this split:"
    yield ""
    yield f"| model | {_title(first)} | {_title(second)} | source | note |"
    yield "|---|---|---|---|---|"
    for one in PUBLISHED[name]:
        yield f"| {' | '.join(one)} |"


def _left(left: Sequence[Cell]) -> Iterator[str]:
    rows: dict[tuple[str, str], list[int]] = {}
    for cell in left:
        rows.setdefault((cell.path.stem, cell.row), []).append(cell.seed)
    yield "These cells were not measured, or only with an earlier recipe:"
    yield ""
    for (recipe, row), seeds in rows.items():
        cost = f", about {DEAR[recipe, row]} CPU minutes a seed" if (recipe, row) in DEAR else ""
        told = f", seeds {', '.join(map(str, seeds))}" if row.startswith("towers") else ""
        yield f"- {recipe}, {row}{told}{cost}"


def _title(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{NAMES[name]}@{k}"


def _figure(values: Sequence[float]) -> str:
    mean = _mean(values)
    text = f"{mean:.4f}".lstrip("0")
    if len(values) < 2:
        return text
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{text} ± {spread:.4f}".replace("± 0.", "± .")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _commits(lines: Sequence[dict[str, Any]]) -> str:
    return ", ".join(sorted({line["commit"] for line in lines}))


def main() -> None:
    PAGE.write_text(page(made(), cells()), encoding="utf-8")


if __name__ == "__main__":
    main()
