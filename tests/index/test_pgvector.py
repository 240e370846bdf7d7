"""PgVector: how it publishes and filters, on the PostgreSQL that `make pgvector` starts."""

import os

import pytest
import torch

from shortlist.errors import IndexServerError, ModelError
from shortlist.index import ExactIndex, PgVector, pgvector

if not os.environ.get("SHORTLIST_PGVECTOR"):
    pytest.skip("for a server: make pgvector", allow_module_level=True)


def world(items=600, users=20, width=8):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randperm(5 * items, generator=generator)[:items],
        torch.randn(items, width, generator=generator),
        torch.randn(users, width, generator=generator),
    )


def asked(statement, *given):
    with PgVector("dot")._connection() as connection:
        return connection.execute(statement, given).fetchall()


def tables(collection):
    return {
        row[0]
        for row in asked("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        if row[0].startswith(f"{collection}_")
    }


def test_a_build_is_a_new_table_behind_the_same_view_and_the_last_but_one_goes():
    ids, vectors, _ = world(items=50)
    names = []
    for width in (8, 8, 4):
        index = PgVector("cosine", collection="published").build(ids, vectors[:, :width])
        names.append(index.place.name)
        seen = asked("SELECT id FROM published ORDER BY id")
        assert [row[0] for row in seen] == ids.sort().values.tolist()
    assert tables("published") == set(names[1:])
    assert asked("SELECT vector_dims(vector) FROM published LIMIT 1") == [(4,)]


def test_a_build_that_fails_leaves_everything_as_it_was(monkeypatch):
    ids, vectors, queries = world(items=50)
    index = PgVector("dot", collection="whole").build(ids, vectors)

    def broken(self, connection, name, items):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(PgVector, "_copy", broken)
        with pytest.raises(IndexServerError, match="no space left"):
            PgVector("dot", collection="whole").build(ids, vectors)
    assert tables("whole") == {index.place.name}
    assert index.search(queries, 5).ids.shape == (20, 5)


@pytest.mark.parametrize("few", [10_000, 10])
def test_filters_are_the_servers_and_exact(few, monkeypatch):
    monkeypatch.setattr(pgvector, "FEW", few)
    ids, vectors, queries = world()
    index = PgVector("dot", collection="filtered").build(ids, vectors)
    exact = ExactIndex("dot").build(ids, vectors)
    for share in (0.5, 0.05, 0.001):
        allow = torch.rand(3_000, generator=torch.Generator().manual_seed(2)) < share
        seen = exact.search(queries, 12, allow=allow).ids.reshape(-1), torch.arange(21) * 12
        for filters in ({"allow": allow}, {"allow": allow, "exclude": seen}):
            hits = index.search(queries, 20, **filters)
            truth = exact.search(queries, 20, **filters)
            assert torch.equal(hits.ids >= 0, truth.ids >= 0)
            assert allow[hits.ids[hits.ids >= 0]].all()
            found = sum(
                len(set(a) & set(b) - {-1})
                for a, b in zip(hits.ids.tolist(), truth.ids.tolist(), strict=True)
            )
            assert found >= 0.95 * int((truth.ids >= 0).sum())


def test_vectors_come_back_as_they_went():
    ids, vectors, _ = world(items=50)
    index = PgVector.from_state(
        "euclidean", PgVector("euclidean", collection="back").build(ids, vectors).state()
    )
    asked_for = torch.tensor([int(ids[3]), 999_999, int(ids[0])])
    assert torch.equal(index.vectors_of(asked_for)[[0, 2]], vectors[[3, 0]])
    assert not index.vectors_of(asked_for)[1].any()


def test_a_server_that_is_gone_and_a_table_that_went_are_told(monkeypatch):
    ids, vectors, queries = world(items=20)
    state = PgVector("dot", collection="away").build(ids, vectors).state()
    for _ in range(2):
        PgVector("dot", collection="away").build(ids, vectors)
    with pytest.raises(IndexServerError, match="does not exist"):
        PgVector.from_state("dot", state).search(queries, 3)
    monkeypatch.setenv("SHORTLIST_PGVECTOR", "host=127.0.0.1 port=9 password=secret")
    away = PgVector.from_state("dot", state)
    for _ in range(2):
        with pytest.raises(IndexServerError, match="port=9 gave no answer") as told:
            away.search(queries, 3)
        assert "secret" not in str(told.value)


def test_vectors_wider_than_its_graph_takes_are_refused():
    with pytest.raises(ModelError, match="width 2000 at most, got 2001"):
        PgVector("dot", collection="wide").build(torch.arange(2), torch.ones(2, 2001))


def test_a_statement_that_ran_into_its_timeout_fails_that_question_alone():
    ids, vectors, queries = world(items=50, users=3)
    index = PgVector("dot", collection="held", timeout=60).build(ids, vectors)
    before = index.search(queries, 3)
    with PgVector("dot")._connection() as other, other.transaction():
        other.execute(f'LOCK TABLE "{index.place.name}"')
        with pytest.raises(IndexServerError, match="due to statement timeout"):
            index.adjust(timeout=0.05).search(queries, 3)
    # Neither is the server left alone for a while, nor is the connection lost.
    assert torch.equal(index.adjust(timeout=60).search(queries, 3).ids, before.ids)


def test_no_timeout_is_so_short_that_postgresql_takes_it_for_none():
    with PgVector("dot", timeout=1e-4)._connection() as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1ms",)
