"""The service while the server of its vectors is gone: popular items, flagged, and no 5xx."""

import pytest

from index.dictionary import Dictionary, dictionary, served  # noqa: F401 - fixtures
from shortlist.bundle.bundle import load
from shortlist.serving.served import Served


@pytest.fixture
def client(served, open_app, make_client):
    return make_client(open_app(served))


def test_a_service_whose_index_server_is_gone_answers_with_popular_items_and_says_so(
    client, fitted
):
    users = fitted.data.users.ids.head(2).to_list()
    before = client.post("/v1/recommend", {"users": users, "k": 5})
    assert before.json["fallback"] == [False, False]
    Dictionary.down = True
    for _ in range(2):
        gone = client.post("/v1/recommend", {"users": users, "k": 5})
        assert gone.status == 200
        assert gone.json["fallback"] == [True, True]
        assert [len(items) for items in gone.json["items"]] == [5, 5]
    items = fitted.data.items.ids.head(1).to_list()
    alike = client.post("/v1/similar", {"items": items, "k": 5})
    assert (alike.status, alike.json["fallback"]) == (200, [True])
    why = client.post("/v1/explain", {"user": users[0], "items": items})
    assert why.status == 503
    assert "the index server does not answer" in why.json["error"]["message"]


def test_a_service_starts_while_its_index_server_is_gone(served, open_app, make_client, fitted):
    Dictionary.down = True
    client = make_client(open_app(served))
    users = fitted.data.users.ids.head(1).to_list()
    answer = client.post("/v1/recommend", {"users": users, "k": 5})
    assert (answer.status, answer.json["fallback"]) == (200, [True])


def test_no_exact_scan_is_compared_with_as_it_would_fetch_every_vector(served):
    assert not Served(load(served), served, 0.0).approximate
