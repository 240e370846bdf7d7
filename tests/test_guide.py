"""The guide states no figure that is not computed here, in both languages."""

import itertools
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shortlist.asking.queries import Queries
from shortlist.cli.files import vector_facts, write_item_vectors, write_user_vectors
from shortlist.config import Training
from shortlist.errors import ModelError
from shortlist.losses import (
    LOSSES,
    BinaryCrossEntropyLoss,
    BPRLoss,
    HingeLoss,
    Loss,
    NoiseContrastiveLoss,
    Scores,
    SoftmaxLoss,
)
from shortlist.sampling import SAMPLERS, Negatives, build_sampler
from shortlist.sampling.hard import HARD
from shortlist.training.objective import LEARNED_TEMPERATURES, Objective, build_objective
from shortlist.training.presets import Choice, choose

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
PAGES = [GUIDE / "losses.md", GUIDE / "losses.zh.md"]

P = torch.tensor([0.40, 0.30, 0.15, 0.10, 0.05], dtype=torch.float64)
Q = torch.tensor([0.60, 0.05, 0.20, 0.05, 0.10], dtype=torch.float64)
EVEN = torch.full((5,), 0.2, dtype=torch.float64)
TASTE = torch.tensor([0.60, 0.20, 0.10, 0.05, 0.05], dtype=torch.float64)

# Decimals of the pages that are choices, not results.
GIVEN = {
    *("0.40", "0.30", "0.15", "0.10", "0.05", "0.60", "0.20"),  # P, Q and the taste of two users
    *("0.01", "0.1", "0.2", "0.5", "0.75"),  # temperatures, a margin, a power of counts
    "0.016",  # what a text prints where 0.000136 is right
}


def share(value: float) -> str:
    """Three digits, as the guide prints shares: .400."""
    return f"{value:.3f}".lstrip("0")


def pools_of(slots: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Every pool of independent slots, [K, M], and its chance, [K]; their order does not matter."""
    drawn = torch.tensor(list(itertools.product(range(5), repeat=len(slots))))
    chance = torch.stack([slot[drawn[:, place]] for place, slot in enumerate(slots)]).prod(0)
    pools, which = torch.unique(drawn.sort(dim=1).values, dim=0, return_inverse=True)
    return pools, torch.zeros(len(pools), dtype=torch.float64).index_add(0, which, chance)


def learned(
    objective: Objective,
    slots: list[Tensor],
    *,
    truth: Tensor = P,
    log_q: Tensor | None = None,
    positive_log_q: Tensor | None = None,
    own_slot: bool = False,
    distinct: bool = False,
) -> Tensor:
    """The scores [5] at the minimum of the expected loss over every positive and every pool."""
    pools, chance = pools_of(slots)
    if distinct:  # one pool: the whole catalogue
        pools, chance = torch.arange(5).unsqueeze(0), torch.ones(1, dtype=torch.float64)
    positive = torch.arange(5).repeat_interleave(len(pools))
    ids = pools.repeat(5, 1)
    if own_slot:
        ids = torch.cat([positive.unsqueeze(1), ids], dim=1)
    log_q = torch.stack(slots).sum(0).log() if log_q is None else log_q
    negatives = Negatives.drawn(ids, log_q[ids])._replace(distinct=distinct)
    weight = truth[positive] * chance.repeat(5)
    scores = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scores],
        max_iter=100,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def expected_loss():
        optimizer.zero_grad()
        rows = objective(
            torch.ones(len(positive), 1, dtype=torch.float64),
            scores[positive],
            scores[ids],
            positive_ids=positive,
            positive_log_q=(log_q if positive_log_q is None else positive_log_q)[positive],
            negatives=negatives,
        )
        total = weight @ rows
        total.backward()
        return total

    optimizer.step(expected_loss)
    return scores.detach().squeeze(1)


def top(options: dict[str, object], slots: list[Tensor], **pool: object) -> str:
    """The share learned for the first item by a softmax with these options."""
    objective = Objective(SoftmaxLoss(), "dot", **options)
    return share(learned(objective, slots, **pool).softmax(0)[0].item())


def row(loss: Loss, positive: float, negative: list[float]) -> float:
    scores = Scores(
        torch.tensor([positive], dtype=torch.float64),
        torch.tensor([negative], dtype=torch.float64),
        torch.ones(1, len(negative), dtype=torch.bool),
    )
    return loss(scores).item()


def floor(negatives: int, temperature: float) -> float:
    """What the best cosine row costs: the positive at 1, every negative at -1."""
    return row(SoftmaxLoss(), 1 / temperature, [-1 / temperature] * negatives)


def power_of_ten(value: float) -> str:
    """Two digits and a power: 8.4·10⁻⁶."""
    digits, exponent = f"{value:.1e}".split("e-")
    return f"{digits}·10⁻{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def floors() -> list[list[str]]:
    small, large = ([floor(count, t) for t in (1.0, 0.2, 0.1)] for count in (3, 4095))
    return [
        ["3", f"{small[0]:.3f}", f"{small[1]:.6f}", power_of_ten(small[2])],
        ["4095", f"{large[0]:.2f}", f"{large[1]:.3f}", power_of_ten(large[2])],
    ]


def hits() -> list[list[str]]:
    none = torch.zeros(5, dtype=torch.float64)
    cases = [
        ({}, {}),
        ({"mask_hits": True}, {}),
        ({}, {"own_slot": True}),
        ({"correct_sampling": False}, {}),
        ({"correct_sampling": False, "mask_hits": False}, {}),
        ({}, {"positive_log_q": none}),
    ]
    return [[top(options, [Q] * size, **pool) for size in (2, 4)] for options, pool in cases]


def catalogue() -> list[list[str]]:
    everything = {"log_q": torch.zeros(5, dtype=torch.float64), "distinct": True}
    return [[top(options, [EVEN], **everything) for options in ({}, {"mask_hits": False})]]


TABLES = {"floors": floors, "hits": hits, "catalogue": catalogue}


def mixtures() -> list[str]:
    objective = Objective(SoftmaxLoss(), "dot")
    parts = [[Q] * 2 + [EVEN], [Q] * 3 + [EVEN] * 2]
    tops = [learned(objective, slots).softmax(0)[0].item() for slots in parts]
    return [f"{value:.4f}".lstrip("0") for value in tops]


def own_users() -> list[str]:
    """Slots that are the row's own user's with some chance, corrected as if they never were."""
    stream = (TASTE + TASTE.flip(0)) / 2
    found = []
    for chance in (0.0, 0.1, 0.5):
        slots = [(1 - chance) * stream + chance * TASTE] * 2
        scores = learned(
            Objective(SoftmaxLoss(), "dot"), slots, truth=TASTE, log_q=(2 * stream).log()
        )
        found.append(share(scores.softmax(0)[0].item()))
    return found


def single_figures() -> list[str]:
    certainty = math.exp(-floor(4095, 1.0))
    bce = row(BinaryCrossEntropyLoss(), 1.0, [])
    without_exp = math.exp(5) / (math.exp(5) + 3 * -5)
    margin = row(HingeLoss(0.2), 0.3, [0.3])  # the positive in the negative's place
    same_two, half_of_the_smaller = 2 / math.sqrt(2 * 2), 50 / math.sqrt(10_000 * 100)
    return [
        f"{certainty:.4f}",
        f"{bce:.3f}",
        f"{floor(3, 0.2):.6f}",
        f"{without_exp:.2f}",
        f"{math.log(4):.3f}",
        f"{same_two:.2f}",
        f"{half_of_the_smaller:.2f}",
        f"{margin:.1f}",
        f"{512 * 100 / 10_000:.2f}",
        f"{4096 * 0.01:.1f}",
    ]


@cache
def computed() -> tuple[tuple[str, ...], dict[str, list[list[str]]]]:
    tables = {name: make() for name, make in TABLES.items()}
    return tuple(mixtures() + own_users() + single_figures()), tables


def table(text: str, name: str) -> list[list[str]]:
    """The cells of the table under the comment `table: name`, head left out."""
    lines = text.split(f"<!-- table: {name} -->\n")[1].splitlines()
    body = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in list(body)[2:]]


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def text(request) -> str:
    return request.param.read_text(encoding="utf-8")


DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_what_is_computed(text, name):
    wanted = computed()[1][name]
    assert [cells[-len(wanted[0]) :] for cells in table(text, name)] == wanted


def test_a_page_states_every_computed_figure_and_no_other(text):
    singles, tables = computed()
    assert [figure for figure in singles if figure not in text] == []
    cells = [cell for rows in tables.values() for row in rows for cell in row]
    known = GIVEN | {number for figure in [*singles, *cells] for number in DECIMAL.findall(figure)}
    assert sorted(set(DECIMAL.findall(text)) - known) == []


def test_both_languages_say_the_same():
    english, chinese = (page.read_text(encoding="utf-8") for page in PAGES)
    for pattern in (r"^#+ ", r"\]\(([^)]+\.py)\)", r"^\| `([a-z_]+)` \|", r"^\|.*\|$"):
        ours, theirs = (re.findall(pattern, page, re.MULTILINE) for page in (english, chinese))
        assert len(ours) == len(theirs) > 0
    assert re.findall(r"\]\(([^)]+\.py)\)", english) == re.findall(r"\]\(([^)]+\.py)\)", chinese)
    assert sorted(DECIMAL.findall(english)) == sorted(DECIMAL.findall(chinese))


def test_links_lead_somewhere_and_names_exist(text):
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (GUIDE / link).is_file(), link
    losses = re.findall(r"\[`([a-z_]+)`\]\([^)]*/losses/[a-z_]+\.py\)", text)
    assert len(losses) >= 6
    assert set(losses) <= set(LOSSES)
    sources = re.findall(r"`(hardest|semi_hard|mined|dropped|exposed)`", text)
    assert len(sources) == 5
    assert set(sources) <= set(HARD)
    keys = table(text + "\n", "keys")
    named = {key for cells in keys for key in re.findall(r"`([a-z_]+)`", cells[0])}
    assert {"loss", "temperature", "mask_hits"} <= named <= set(Training.model_fields)


def test_samplers_are_labelled_as_they_label_themselves(text):
    meaning = {"精确": "exact", "渐近一致": "consistent"}
    for name, _, label in table(text, "samplers"):
        key = re.match(r"\[`([a-z_]+)`\]", name).group(1)
        assert SAMPLERS[key].exactness.label == meaning.get(label, label)


@pytest.mark.parametrize("name", HARD)
def test_exposed_items_and_other_hard_ones_are_refused_as_the_only_negatives(name):
    with pytest.raises(ModelError, match=f"hard = '{name}'"):
        build_objective("softmax", sampler=name)
    assert Training(hard=name).hard == name


def test_defaults_are_those_the_guide_names():
    presets = {mode: choose(Training(mode=mode)) for mode in ("pointwise", "pairwise", "listwise")}
    assert presets == {
        "pointwise": Choice("bce", "uniform", 4, shared=False),
        "pairwise": Choice("bpr", "uniform", 4, shared=False),
        "listwise": Choice("softmax", "in_batch", None, shared=None),
    }
    assert [build_objective("softmax", similarity=s).temperature for s in ("cosine", "dot")] == [
        0.1,
        1.0,
    ]
    assert LEARNED_TEMPERATURES == (0.01, 100.0)
    counts = torch.tensor([0, 16, 81])
    drawn = build_sampler("popularity", counts).frequency
    torch.testing.assert_close(drawn, torch.tensor([0, 8, 27]).double() / 35)  # count^0.75


def test_minus_log_of_a_sigmoid_is_infinite_where_softplus_is_not():
    gap = torch.tensor(-89.0)
    assert (-(1 / (1 + (-gap).exp())).log()).item() == math.inf
    assert row(BPRLoss(), -89.0, [0.0]) == pytest.approx(89.0)


def test_log_q_inside_the_temperature_gives_the_order_of_q():
    inside = Objective(SoftmaxLoss(), "dot", temperature=0.2)
    scores = learned(inside, [Q] * 2, log_q=(2 * Q).log() / 0.2)
    wanted = 0.2 * P.log() + 0.8 * Q.log()
    torch.testing.assert_close(scores - scores[0], wanted - wanted[0], atol=1e-4, rtol=0)
    assert scores.argsort(descending=True).tolist() == [0, 2, 4, 1, 3]  # b, the second, is fourth


@pytest.mark.parametrize("loss", [SoftmaxLoss(), BPRLoss()], ids=["softmax", "bpr"])
def test_without_correction_p_over_q_is_learned_by_pairs_and_lists_alike(loss):
    off = Objective(loss, "dot", correct_sampling=False, mask_hits=False)
    found = learned(off, [Q]).softmax(0)
    torch.testing.assert_close(found, (P / Q) / (P / Q).sum(), atol=1e-3, rtol=0)


def test_nce_learns_log_p_and_without_the_count_log_p_less_log_k():
    objective = Objective(NoiseContrastiveLoss(), "dot").eval()  # the bias stays 0
    right, no_count = (learned(objective, [Q] * 4, log_q=q) for q in (None, Q.log()))
    torch.testing.assert_close(right, P.log(), atol=1e-3, rtol=0)
    torch.testing.assert_close(no_count, P.log() - math.log(4), atol=1e-3, rtol=0)


def test_only_the_difference_counts_for_bpr_and_a_level_for_bce():
    level = 3.0
    low, high = row(BPRLoss(), 0.5, [0.1]), row(BPRLoss(), 0.5 + level, [0.1 + level])
    assert low == pytest.approx(high)
    bce = BinaryCrossEntropyLoss()
    assert row(bce, 0.5, [0.1]) != pytest.approx(row(bce, 0.5 + level, [0.1 + level]))


def test_an_item_that_is_never_shown_learns_nothing():
    items = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    shown = torch.tensor([[1, 2]])
    Objective(BPRLoss(), correct_sampling=False)(
        torch.ones(1, 3),
        items[[0]],
        items[shown],
        positive_ids=torch.tensor([0]),
        negatives=Negatives.drawn(shown, torch.zeros(1, 2)),
    ).sum().backward()
    assert items.grad[[0, 1, 2]].any(1).all()
    assert not items.grad[[3, 4]].any()


def test_the_lines_for_faiss_find_what_the_retriever_finds(fitted, tmp_path, monkeypatch):
    page = GUIDE / "vector-stores.md"
    (lines,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    facts = vector_facts(fitted, "ab12")
    write_item_vectors(fitted, tmp_path / "items.parquet", facts)
    write_user_vectors(fitted, tmp_path / "users.parquet", facts)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(lines, page.name, "exec"), names)
    first = Queries(names["users"]["id"].head(1), exclude_seen=False)
    (answer,) = fitted.recommend(first, 10).ids
    assert len(set(names["found"]) & set(answer)) >= 9  # the last two may score alike
