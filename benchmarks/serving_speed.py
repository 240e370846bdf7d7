"""What does HTTP cost? CPU microseconds per request of the hot route, beside its parts.

Five things in one run, for one user a request over 100,000 items, k = 100:

  library   `retriever.recommend` alone, ids and scores as columns of a JSON answer not counted
  service   POST /v1/recommend of `shortlist serve`, as a process of its own
  plain     the same answer from FastAPI with a request model and a response model, the usual way
  *_http    both again with an answer that is there already: reading, checking, writing, HTTP

The service's figure is the CPU time of its process (user + system) per request, asked over
keep-alive connections of this machine; so is that of `plain`. The client's own time is not in it.

    .venv/bin/python benchmarks/serving_speed.py [--items 100000] [--requests 2000] [--clients 4]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import Bundle, load, save
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.serving.app import App
from shortlist.serving.measures import Measures
from shortlist.serving.server import Server
from shortlist.serving.settings import Settings
from shortlist.serving.watching import Watch

K = 100
USERS = 2_000
DIM = 64


def make_bundle(path: Path, items: int) -> None:
    """A two-tower bundle, trained for a moment: what it has learned does not matter here."""

    generator = np.random.default_rng(0)
    item = np.concatenate([np.arange(items), generator.integers(0, items, USERS * 20)])
    user = np.concatenate([generator.integers(0, USERS, items), np.repeat(np.arange(USERS), 20)])
    log = pl.DataFrame({"user_id": user, "item_id": item, "time": np.arange(len(user))})
    split = Dataset.load(log, schema=Schema(time="time")).split("leave-last-out")
    model = TwoTower(dim=DIM, epochs=1, batch_size=4096, seed=0).fit(split)
    save(model, path)


def canned(path: str | Path) -> Bundle:
    """The bundle with the answer to one user given at once to everybody: what is left is HTTP."""
    bundle = load(path)
    answer = bundle.retriever.recommend(bundle.retriever.data.users.ids.head(1), K)
    bundle.retriever.recommend = lambda *_: answer
    return bundle


def plain(path: str, read: Callable[[str], Bundle] = load) -> None:
    """The service written the plain FastAPI way, for comparison."""

    class Request(BaseModel):
        users: list[int]
        k: int = 10
        exclude_seen: bool = True

    class Item(BaseModel):
        item: int
        score: float

    class Answer(BaseModel):
        user: int
        items: list[Item]
        fallback: bool

    class Answers(BaseModel):
        bundle: str
        users: list[Answer]

    torch.set_num_threads(1)
    bundle = read(path)
    ids = bundle.retriever.data.items.ids.to_numpy()
    api = FastAPI()

    @api.post("/v1/recommend", response_model=Answers)
    def recommend(asked: Request) -> Answers:

        found = bundle.retriever.recommend(
            Queries(asked.users, exclude_seen=asked.exclude_seen), asked.k
        )
        return Answers(
            bundle=bundle.id,
            users=[
                Answer(
                    user=user,
                    items=[
                        Item(item=item, score=score)
                        for item, score in zip(ids[rows - 1], scores, strict=True)
                    ],
                    fallback=bool(fallback),
                )
                for user, rows, scores, fallback in zip(
                    asked.users, found.rows, found.scores.tolist(), found.fallback, strict=True
                )
            ],
        )

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)

    Server(uvicorn.Config(api, port=0, log_level="error", access_log=False)).run()


def ours(path: str, read: Callable[..., Bundle] = load) -> None:
    """What `shortlist serve` runs."""
    torch.set_num_threads(1)
    settings, measures = Settings(), Measures()
    app = App(Watch(Path(path), measures, read), measures, settings)
    Server(app, "127.0.0.1", 0, settings, lambda address: print(address, flush=True)).run()
    app.close()


SERVERS: dict[str, Callable[[str], None]] = {
    "service": ours,
    "plain": plain,
    "service_http": lambda path: ours(path, canned),
    "plain_http": lambda path: plain(path, canned),
}


def library(path: Path, requests: int) -> float:
    """CPU microseconds of the call alone, one user at a time."""

    torch.set_num_threads(1)
    bundle = load(path)
    users = bundle.retriever.data.users.ids.to_list()
    generator = np.random.default_rng(1)
    picked = [[users[at]] for at in generator.integers(0, len(users), requests)]
    with torch.inference_mode():
        for user in picked[:50]:
            bundle.retriever.recommend(user, K)
        started = time.process_time()
        for user in picked:
            bundle.retriever.recommend(user, K)
    return (time.process_time() - started) / requests * 1e6


def ask(port: int, users: list, requests: int, answers: list) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    generator = np.random.default_rng(os.getpid())
    for at in generator.integers(0, len(users), requests):
        body = json.dumps({"users": [users[at]], "k": K})
        connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answers.append((answer.status, len(answer.read())))
    connection.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def over_http(kind: str, path: Path, users: list, requests: int, clients: int) -> dict[str, float]:
    """CPU microseconds a request of a server process, and the bytes of an answer."""
    command = [sys.executable, __file__, "--serve", kind, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline().strip().rpartition(":")[2])
        while True:
            warm: list = []
            ask(port, users, 1, warm)
            if warm[0][0] == 200:
                break
            time.sleep(0.1)
        ask(port, users, 200, warm)
        answers: list = []
        before, started = cpu_seconds(child.pid), time.perf_counter()
        each = requests // clients
        threads = [Thread(target=ask, args=(port, users, each, answers)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        used, passed = cpu_seconds(child.pid) - before, time.perf_counter() - started
        if any(status != 200 for status, _ in answers):
            raise SystemExit(f"{kind}: not every answer was 200")
        return {
            "cpu_us": used / len(answers) * 1e6,
            "wall_us": passed / len(answers) * 1e6,
            "answer_bytes": float(np.mean([size for _, size in answers])),
        }
    finally:
        child.terminate()
        child.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", type=Path, help="measure this one instead of making one")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        SERVERS[given.serve[0]](given.serve[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = given.bundle or Path(folder) / "bundle"
        if given.bundle is None:
            make_bundle(path, given.items)

        users = load(path).retriever.data.users.ids.to_list()
        rounds = []
        for number in range(given.rounds):
            parts = {"library": library(path, given.requests)}
            for kind in SERVERS:
                measured = over_http(kind, path, users, given.requests, given.clients)
                parts[kind] = measured["cpu_us"]
                parts[f"{kind}_bytes"] = measured["answer_bytes"]
                parts[f"{kind}_wall"] = measured["wall_us"]
            rounds.append(parts)
            print(json.dumps({"round": number} | {k: round(v, 1) for k, v in parts.items()}))
        middle = {name: float(np.median([r[name] for r in rounds])) for name in rounds[0]}
        print(
            json.dumps(
                {
                    "items": given.items,
                    "k": K,
                    **{f"{name}_cpu_us": round(middle[name], 1) for name in ("library", *SERVERS)},
                    "http_to_plain": round(middle["service_http"] / middle["plain_http"], 3),
                    "service_to_library": round(middle["service"] / middle["library"], 3),
                    "service_to_plain": round(middle["service"] / middle["plain"], 3),
                }
            )
        )


if __name__ == "__main__":
    main()
