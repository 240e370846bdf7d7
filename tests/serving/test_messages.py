"""What is accepted from the body of a request, and what is refused before it is used."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.errors import ServingError
from shortlist.serving.messages import RequestError
from shortlist.serving.requests import (
    EventSent,
    EventsRequest,
    ExplainRequest,
    HistoryRequest,
    ItemsRequest,
    ItemWindow,
    RecommendRequest,
    RevertRequest,
    SimilarRequest,
    TitlesRequest,
    check,
    check_condition,
    limited,
    read,
)
from shortlist.serving.settings import Limits, Settings, check_address

SMALL = Limits(queries=3, k=5, ids=4, history=2, id_length=6, explained=1)
RECOMMEND = limited(RecommendRequest, SMALL)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def complaint(body: bytes, model=RECOMMEND) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        read(model, body)
    return caught.value.code, caught.value.message


def test_a_request_is_what_was_sent_and_the_defaults():
    asked = read(RECOMMEND, b'{"users": [1, "x"], "k": 3}')
    assert (asked.users, asked.k, asked.exclude_seen, asked.where) == ([1, "x"], 3, True, None)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"users": [1], "limit": 2}', "limit"),
        (b'{"users": [true]}', "users[0]"),
        (b'{"users": [1.0]}', "users[0]"),
        (b'{"users": [1, null]}', "users[1]"),
        (b'{"users": [9223372036854775808]}', "users[0]"),
        (b'{"users": ["sevench"]}', "users[0]"),
        (b'{"users": [1, 2, 3, 4]}', "users"),
        (b'{"users": "ab"}', "users"),
        (b'{"histories": [[1, 2, 3]]}', "histories[0]"),
        (b'{"histories": [1]}', "histories[0]"),
        (b'{"users": [1], "deny": [1, 2, 3, 4, 5]}', "deny"),
        (b'{"users": [1], "k": 0}', "k"),
        (b'{"users": [1], "k": 6}', "k"),
        (b'{"users": [1], "k": "3"}', "k"),
        (b'{"users": [1], "k": true}', "k"),
        (b'{"users": [1], "exclude_seen": 1}', "exclude_seen"),
        (b'{"users": [1], "where": []}', "where"),
        (b'{"users": [1], "quota": {}}', "quota"),
        (b'{"users": [1], "quota": {"a": 1, "b": 1}}', "quota"),
        (b'{"users": [1], "quota": {"a": 0}}', "quota.a"),
        (b'{"users": [1], "quota": {"a": 6}}', "quota.a"),
        (b'{"users": [1], "quota": {"a": 1.0}}', "quota.a"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(body, place):
    code, message = complaint(body)
    assert code == "invalid_request"
    assert message.startswith(f"{place} ")


@pytest.mark.parametrize(
    ("body", "model", "message"),
    [
        (b'{"usrs": [1]}', RecommendRequest, "usrs is not a field. Did you mean 'users'?"),
        (b'{"users": [1], "k": 0}', RecommendRequest, "k must be >= 1, got 0"),
        (
            b'{"users": [1.5]}',
            RecommendRequest,
            "users[0] must be a whole number or text in quotes, got 1.5",
        ),
        (
            b'{"users": ["sevench"]}',
            RecommendRequest,
            'users[0] must be text of at most 6 characters, got "sevench"',
        ),
        (
            b'{"users": [1, 2, 3, 4]}',
            RecommendRequest,
            "users must be a list of at most 3 entries, got a list of 4",
        ),
        (
            b'{"users": [1], "time": [1, {}]}',
            RecommendRequest,
            "time[1] must be a number or text in quotes, got {}",
        ),
        (b"[1]", RecommendRequest, "the request must be an object, got a list of 1"),
        (
            b'{"users": [1], "quota": {"sevench": 1}}',
            RecommendRequest,
            'the name "sevench" in quota must be text of at most 6 characters, got "sevench"',
        ),
        # The required field is missing because it is misspelt.
        (
            b'{"events": [{"usr": 1, "item": 2}]}',
            EventsRequest,
            "events[0].usr is not a field. Did you mean 'user'?",
        ),
        (
            b'{"events": [{"user": 1, "kind": "x"}]}',
            EventsRequest,
            "events[0].item is required; the fields that came are: kind, user",
        ),
        (
            b'{"available": [{"id": 1, "fro": 3}]}',
            ItemsRequest,
            "available[0].fro is not a field. Did you mean 'from'?",
        ),
        (b"{}", RevertRequest, "change is required; the fields that came are: none"),
    ],
)
def test_a_faulty_request_is_told_its_field_what_was_expected_and_what_came(body, model, message):
    assert complaint(body, limited(model, SMALL)) == ("invalid_request", message)


@pytest.mark.parametrize(
    "model",
    [
        *(RecommendRequest, SimilarRequest, ExplainRequest, HistoryRequest, TitlesRequest),
        *(EventSent, ItemsRequest, ItemWindow, RevertRequest),
    ],
)
def test_no_refusal_is_in_a_validators_own_words(model):
    model, many, said = limited(model, SMALL), [1, 2, 3, 4, 5, 6], []
    wrong = [
        None,
        True,
        1.5,
        -(2**70),
        "",
        "x" * 9,
        [],
        [None],
        [[[]]],
        [many],
        {},
        {"x" * 9: [{}]},
    ]
    for name, field in model.model_fields.items():
        for value in (*wrong, many, {str(each): each for each in many}):
            try:
                check(model, {field.alias or name: value})
            except RequestError as error:
                said.append(error.message)
    sentence = re.compile(r"\S.* (must be .+, got .+|is required; .+|is not a field\. ?.+)")
    assert [each for each in said if not sentence.fullmatch(each)] == []
    assert [each for each in said if re.search("(?i)input|should|valid|instance", each)] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"users": [NaN]}',
        b'{"users": [1e999]}',
        b'{"users": ["\\ud800"]}',
        b"[" * 2000 + b"]" * 2000,
        b'{"users": [1]} {}',
        b'{"k": 1, "k": 2}',
        b'{"users": [1], "where": {"and": [{"column": "a", "eq": 1, "eq": 2}]}}',
        b'{"users": [1], "\\u0075sers": [2]}',
    ],
)
def test_what_is_not_strict_json_is_refused(body):
    assert complaint(body)[0] == "invalid_json"


@given(VALUES)
def test_no_key_is_taken_for_a_second_one(value):
    body = json.dumps({"where": {"x": value}, "users": [1]}).encode()
    assert read(RECOMMEND, body).where == {"x": value}


@given(VALUES, st.text(max_size=3))
def test_a_key_that_stands_twice_is_found_wherever_it_is(value, key):
    name = json.dumps(key)
    twice = f"{{{name}: {json.dumps(value)}, {name} : 1}}"
    for body in (f'{{"users": [1], "where": {twice}}}', f'{{"where": {{"and": [[{twice}]]}}}}'):
        assert complaint(body.encode()) == ("invalid_json", "duplicate key in an object")


def test_limits_differ_by_what_a_list_is_for():
    assert len(read(limited(TitlesRequest, SMALL), b'{"items": [1, 2, 3, 4]}').items) == 4
    explain = limited(ExplainRequest, SMALL)
    assert read(explain, b'{"user": 1, "items": [1]}').user == 1
    assert complaint(b'{"user": 1, "items": [1, 2]}', explain)[1].startswith(
        "items must be a list of at "
    )
    assert complaint(b'{"user": 1, "items": []}', explain)[1].startswith(
        "items must be a list of at "
    )


def test_a_field_that_nobody_gave_a_limit_fails_at_the_start():
    class LimitlessRequest(RecommendRequest):
        fresh: list[int] = []  # noqa: RUF012 - pydantic copies it

    with pytest.raises(ServingError, match=r"LimitlessRequest\.fresh has no limit"):
        limited(LimitlessRequest, Limits())


def test_a_long_complaint_is_cut():
    assert len(complaint(b'{"' + b"x" * 5000 + b'": 1}')[1]) <= 300


@pytest.mark.parametrize(
    "where",
    [
        {"and": [{"column": "a", "eq": 1}] * 8},
        {"and": [1] * 8},
        {"not": {"not": {"not": {"not": {"column": "a", "eq": 1}}}}},
        {"or": [{"column": "a", "in": [1, 2]}, {"column": "a", "in": [3, 4]}]},
    ],
)
def test_a_condition_has_an_end(where):
    limits = Limits(filter_nodes=8, filter_depth=4, filter_values=3)
    with pytest.raises(RequestError, match="where: at most"):
        check_condition(where, limits)


def test_a_condition_within_the_limits_passes():
    limits = Limits(filter_nodes=8, filter_depth=4, filter_values=3)
    check_condition({"and": [{"column": "a", "in": [1, 2, 3]}] + [{"not": {}}] * 3}, limits)


@pytest.mark.parametrize("name", ["body", "queries", "k", "history", "filter_nodes", "id_length"])
def test_a_limit_of_nothing_is_refused(name):
    with pytest.raises(ServingError, match=name):
        Limits(**{name: 0})


@pytest.mark.parametrize(
    "given",
    [
        {"workers": 0},
        {"poll": 0},
        {"poll": float("nan")},
        {"poll": float("inf")},
        {"token": "short"},
        {"token": "with spaces, and long enough"},
        {"token": "the-very-same-token", "admin_token": "the-very-same-token"},
    ],
)
def test_settings_that_cannot_work_are_refused_without_telling_a_token(given):
    with pytest.raises(ServingError) as caught:
        Settings(**given)
    assert str(given.get("token")) not in str(caught.value)
    if "token" in given:
        assert "SHORTLIST_TOKEN" in str(caught.value)  # as whoever starts the service calls it


def test_a_token_is_in_no_text_of_the_settings():
    assert "secret" not in repr(Settings(token="secret-secret-secret"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org", ""])
def test_an_address_others_reach_needs_a_token(host):
    with pytest.raises(ServingError, match="SHORTLIST_TOKEN"):
        check_address(host, Settings())
    check_address(host, Settings(token="a-token-long-enough"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_this_machine_alone_needs_none(host):
    check_address(host, Settings())
