"""Several ranks train what one process trains on the rows of all of them."""

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from shortlist.bundle.bundle import load
from shortlist.cli import main
from shortlist.config import load_recipe
from shortlist.errors import CheckpointError, ModelError, RecipeError
from shortlist.runs.pipeline import check_together
from shortlist.runs.seeds import check_seeds
from shortlist.training import ranks as ranks_module
from shortlist.training.checkpoint import Checkpoints
from shortlist.training.ranks import Ranks
from training import several

ORDERS = 8
"""In how many other orders of its rows one process is asked, at most, for what rounding does."""

LAST_PLACES = 2 * torch.finfo(torch.float32).eps
"""Of the greatest number: the least that can differ, there and back."""


def further_than_orders(options, ranks, **further):
    """Where ranks are further from one process than this is with its rows in another order.

    It is by part what ranks differ by and what the orders do, as shares of the greatest number.
    further: of several.told.
    """
    one = several.alone(options, len(ranks), **further)
    found, rounding = several.apart(one, ranks[0]), dict.fromkeys(several.PARTS, 0.0)
    for order in range(ORDERS):
        dice = torch.Generator().manual_seed(order)
        again = several.apart(one, several.alone(options, len(ranks), dice=dice, **further))
        rounding = {part: max(by, rounding[part]) for part, by in again.items()}
        wrong = {
            part: (by, rounding[part])
            for part, by in found.items()
            if by > rounding[part] + LAST_PLACES
        }
        if not wrong:
            break
    return wrong


def run_ranks(folder, size, cases, program=several):
    """Train the cases on so many ranks; what each of them came to, by case."""
    begin = [sys.executable, "-W", "error", "-m", program.__name__, str(folder)]
    tests = Path(program.__file__).parents[1]
    started = []
    for rank in range(size):
        with (folder / f"said.{rank}").open("w") as said:
            text = [*begin, str(rank), str(size), json.dumps(cases)]
            started.append(subprocess.Popen(text, stdout=said, stderr=said, cwd=tests))
    codes = [process.wait() for process in started]
    assert not any(codes), [(folder / f"said.{rank}").read_text()[-600:] for rank in range(size)]
    return [  # by case, then by rank
        [torch.load(folder / f"{number}.{rank}.pt", weights_only=True) for rank in range(size)]
        for number in range(len(cases))
    ]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder, cases = tmp_path_factory.mktemp("ranks"), several.QUICK
    (folder / "recipe.toml").write_text(several.RECIPE)
    several.planted().interactions.write_csv(folder / "log.csv")
    trained = run_ranks(folder, 2, list(cases.values()))
    told = [json.loads((folder / f"told.{rank}").read_text()) for rank in range(2)]
    return SimpleNamespace(
        folder=folder,
        trained=dict(zip(cases, trained, strict=True)),
        resumed=[one["resumed"] for one in told],
        sent=[one["sent"] for one in told],
        printed=[one["printed"] for one in told],
        refused=[one["refused"] for one in told],
    )


@pytest.mark.parametrize("case", several.QUICK)
def test_two_ranks_are_one_process_with_the_rows_of_both(case, two_ranks):
    first, second = two_ranks.trained[case]
    assert further_than_orders(several.QUICK[case], [first, second]) == {}
    for part in ("gradients", "weights"):
        for name, value in first[part].items():
            torch.testing.assert_close(value, second[part][name], rtol=0, atol=0)


def test_a_step_sends_the_bytes_that_can_be_computed_of_it(two_ranks):
    """Vectors of the distinct items and their gradients, and dense gradients or rows of tables."""
    dim, both = several.COMMON["dim"], range(2)
    tables = several.begun(several.SENT).towers.parameters()
    numbers, parameters = sum(table.numel() for table in tables), 2
    steps = itertools.islice(several.parts_of(several.SENT, 2), several.STEPS)
    for step, parts in enumerate(steps):
        rows = max(len(part.positive) for part in parts)
        items = torch.cat([part.positive for part in parts]).unique()
        own = [items[items % 2 == rank] for rank in both]
        most = max(len(ids) for ids in own)
        told = 8 + 24 * rows + 8 * parameters + 4  # sizes, rows, kinds of gradients, the loss
        vectors = 4 * dim * (most + len(items))
        read = max(
            len(part.users.unique()) + len(ids) for part, ids in zip(parts, own, strict=True)
        )
        for whole, by_rows in two_ranks.sent:
            assert whole[step] == [told + vectors + 4 * numbers, 7]
            assert by_rows[step] == [told + vectors + (8 + 4 * dim) * read, 8]


def test_a_rank_that_begins_from_other_numbers_is_given_those_of_the_first(two_ranks):
    first, second = (
        torch.load(two_ranks.folder / f"apart.{rank}.pt", weights_only=True) for rank in range(2)
    )
    unperturbed = several.begun_apart(Ranks())
    for part in ("weights", "tables"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), name
    for name in ("item.neighbours.rows", "item.neighbours.weights", "item.met"):
        assert torch.equal(first["weights"][name], unperturbed["weights"][name])
    for name, value in first["tables"].items():
        assert torch.equal(value, unperturbed["tables"][name])


def test_processes_that_read_other_inputs_are_refused_before_training(two_ranks):
    first, second = (told["other log"] for told in two_ranks.refused)
    assert first == second
    assert first[0] == "TrainingError"
    assert "2 processes of this training have read different recipes, data" in first[1]


@pytest.mark.parametrize("case", several.RESUMED)
def test_ranks_put_down_and_taken_up_again_come_to_the_same_bytes(case, two_ranks):
    first, second = (told[case] for told in two_ranks.resumed)
    assert len({*first, *second}) == 1


def test_the_first_rank_alone_prints_and_saves(two_ranks):
    first, second = two_ranks.printed
    assert second == ""
    loaded = load(two_ranks.folder / "bundle")
    figures = json.loads(first)
    assert figures["bundle"] == loaded.id
    assert figures["metrics"] == loaded.metrics["metrics"]


def test_a_checkpoint_of_two_ranks_is_refused_by_one_process(two_ranks):
    saved = Checkpoints(two_ranks.folder / "memory")
    with pytest.raises(CheckpointError, match="a training with 2 processes, and this training has"):
        several.built({"batch_size": 256, **several.RESUMED["memory"]}).fit(
            several.split(), checkpoints=saved
        )


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_one_sentence(two_ranks):
    first, second = (told["nan"] for told in two_ranks.refused)
    assert first == second
    assert first[0] == "TrainingError"
    assert first[1].startswith("the loss is nan: lower training.learning_rate")


def test_a_rank_without_enough_users_is_named_on_all(two_ranks):
    first, second = (told["few"] for told in two_ranks.refused)
    assert first == second
    assert first[0] == "TrainingError"
    assert "start fewer processes" in first[1]


def test_checkpoints_that_differ_from_machine_to_machine_are_refused(two_ranks):
    assert [told["other checkpoint"][0] for told in two_ranks.refused] == ["CheckpointError"] * 2


def test_a_rank_whose_other_is_gone_says_so(two_ranks):
    kind, text = two_ranks.refused[0]["gone"]
    assert kind == "PeerError"
    assert text.startswith("another process of this training has ended")


def recipe_of(tmp_path, text):
    place = tmp_path / "recipe.toml"
    place.write_text('[data]\ninteractions = "log.csv"\n' + text)
    return load_recipe(place)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[channels.cf]\nkind = "item-cf"\n', "this recipe has no towers: start it without"),
        (
            '[channels.cf]\nkind = "item-cf"\n[channels.dssm]\nkind = "two-tower"\n',
            "this recipe holds a blend of channels: start it without",
        ),
        (
            'time = "t"\n[training]\npositives = "u2u"\nmode = "pairwise"\n',
            "cannot give each row negatives of its own",
        ),
        ('order = "file"\n[split]\nkind = "rolling"\n', "trains models one after the other"),
    ],
)
def test_what_several_ranks_cannot_train_is_refused_before_anything_is_read(
    text, said, tmp_path, monkeypatch
):
    recipe = recipe_of(tmp_path, text)
    check_together(recipe)
    monkeypatch.setattr(ranks_module, "_joined", [Ranks(0, 2)])
    with pytest.raises(ModelError, match=said):
        check_together(recipe)


def test_the_report_of_torchrun_ends_with_the_sentence_of_the_error(monkeypatch, capsys, tmp_path):
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    monkeypatch.setattr(sys, "argv", ["shortlist", "similar", "nowhere"])
    with pytest.raises(SystemExit) as stop:
        main()
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=stop.value.code, error_file=str(file))
    report = str(ChildFailedError("shortlist", {0: failure}))
    *_, last, _ = report.strip().splitlines()
    sentence = "error: give --item or --user: one of the two"
    assert sentence in capsys.readouterr().err
    assert last.split(" : ") == ["  traceback", sentence]


def test_other_commands_and_several_seeds_are_refused_under_torchrun(monkeypatch, capsys, tmp_path):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["shortlist", "inspect", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        several.command_line()
    assert stop.value.code == 2
    assert "only `train` can use them: start inspect without" in capsys.readouterr().err
    recipe = recipe_of(tmp_path, "[training]\nseed = 1\n")
    check_seeds(recipe, 2)
    monkeypatch.setattr(ranks_module, "_joined", [Ranks(0, 2)])
    with pytest.raises(RecipeError, match="start it without torchrun"):
        check_seeds(recipe, 2)


LEFT = """
import os, torch
from shortlist.training.ranks import together

def threads():
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/comm") as name:
            found.append("gloo" in name.read())
    return sum(found)

with together():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()
    before = threads()
print(before > 0, threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted on Linux")
def test_a_group_ends_with_the_training_that_began_it():
    # Threads of a group that are there when a process exits may abort it.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(2):
        group = {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "two"}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        told = {"env": os.environ | group, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", LEFT], **told))
    assert [process.communicate()[0] for process in started] == ["True 0\n"] * 2
