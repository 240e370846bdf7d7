"""How does HTTP reach the service? Routes, tokens, size and time limits, errors, the page's files.

ROUTES has every route with the token that it needs. A path that is not in it gets 404 before
anything else is read. The routes with a body are plain ASGI, because the layers of the framework
cost more than the answer; FastAPI serves the others.
"""

import asyncio
import hmac
import logging
import re
import select
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from importlib.metadata import version
from secrets import token_hex
from time import perf_counter, thread_time
from typing import Annotated, Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

import orjson
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from shortlist.histories.items import ItemStore, SQLiteItems
from shortlist.histories.redis_items import RedisItems
from shortlist.histories.redis_server import RedisPlace
from shortlist.sections.faults import explain_request
from shortlist.serving.access_log import CLIENT_GONE, LoggedRequest, log
from shortlist.serving.answers import (
    BundleAnswer,
    ChangesAnswer,
    EventsAnswer,
    ExplainAnswer,
    FeedbackAnswer,
    ForgottenAnswer,
    HistoryAnswer,
    ItemsAnswer,
    LatestAnswer,
    MapAnswer,
    RecommendAnswer,
    ReloadAnswer,
    ReportAnswer,
    SimilarAnswer,
    StateAnswer,
    TitlesAnswer,
    UsersAnswer,
)
from shortlist.serving.event_log import EventLog, opened
from shortlist.serving.feedback import Feedback
from shortlist.serving.fresh import events_of, held_by, user_of
from shortlist.serving.item_changes import ItemChanges
from shortlist.serving.measures import Measures
from shortlist.serving.messages import Message, RequestError
from shortlist.serving.openapi import Route, document
from shortlist.serving.page_files import PageFile, page_files
from shortlist.serving.requests import (
    ChangesRequest,
    EventsRequest,
    ExplainRequest,
    HistoryRequest,
    ItemsRequest,
    LatestRequest,
    RecommendRequest,
    RevertRequest,
    SimilarRequest,
    TitlesRequest,
    UsersRequest,
    limited,
    read,
)
from shortlist.serving.service import Service, encode
from shortlist.serving.settings import Settings, is_loopback
from shortlist.serving.watching import Watch
from shortlist.serving.workers import Workers

Header = tuple[bytes, bytes]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("shortlist.serving")

ROUTES = (
    Route("GET", "/", "none", "The explorer page.", text="text/html"),
    Route("GET", "/page/{file}", "none", "A file of the explorer page.", text="*/*"),
    Route("GET", "/healthz", "none", "The process is alive.", answers=StateAnswer),
    Route("GET", "/readyz", "none", "The service is ready.", answers=StateAnswer),
    Route("GET", "/metrics", "read", "Metrics in the Prometheus text format."),
    Route("GET", "/openapi.json", "read", "This document.", text="application/json"),
    Route("GET", "/v1/bundle", "read", "The bundle that is served.", answers=BundleAnswer),
    Route("GET", "/v1/report", "read", "Metrics of the bundle.", answers=ReportAnswer),
    Route("GET", "/v1/map", "read", "A map of the items.", answers=MapAnswer),
    Route("GET", "/v1/feedback", "read", "Click figures and alarms.", answers=FeedbackAnswer),
    Route("GET", "/v1/users", "read", "User ids by prefix.", UsersRequest, UsersAnswer),
    Route(
        *("POST", "/v1/recommend", "read", "Candidates for users or histories."),
        *(RecommendRequest, RecommendAnswer),
    ),
    Route("POST", "/v1/similar", "read", "Similar items or users.", SimilarRequest, SimilarAnswer),
    Route("POST", "/v1/explain", "read", "Reasons of scores.", ExplainRequest, ExplainAnswer),
    Route("POST", "/v1/history", "read", "Items of a user.", HistoryRequest, HistoryAnswer),
    Route("POST", "/v1/titles", "read", "Titles of items.", TitlesRequest, TitlesAnswer),
    Route("POST", "/v1/events", "write", "Store events.", EventsRequest, EventsAnswer),
    Route("GET", "/v1/events", "read", "The newest events.", LatestRequest, LatestAnswer),
    Route(
        *("DELETE", "/v1/users/{user}", "admin", "Delete the stored events of a user."),
        answers=ForgottenAnswer,
    ),
    Route("POST", "/admin/items", "admin", "Change items.", ItemsRequest, ItemsAnswer),
    Route(
        *("POST", "/admin/items/revert", "admin", "Revert a change of items."),
        *(RevertRequest, ItemsAnswer),
    ),
    Route(
        *("GET", "/admin/items/changes", "admin", "The newest changes of items."),
        *(ChangesRequest, ChangesAnswer),
    ),
    Route("POST", "/admin/reload", "admin", "Check for a newer bundle now.", answers=ReloadAnswer),
)
"""All routes of the service."""

STATUS = {
    "invalid_http": 400,
    "invalid_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "not_supported": 422,
    "too_many": 429,
    "internal": 500,
    "busy": 503,
    "draining": 503,
    "not_ready": 503,
    "store_unavailable": 503,
}
"""The HTTP status of each error code."""

_JSON = b"application/json"
_PLAIN: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)
_USERS = "/v1/users/"
_REQUEST_ID = b"x-request-id"
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ONCE = (b"host", b"authorization", b"content-type", b"content-length")
_CLOSE = (b"connection", b"close")
_WORK, _MOST_WORK, _MOST_REST = 0.004, 0.02, 0.02  # seconds, while requests are refused
_RETRY = (b"retry-after", b"1")
_PAGE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
)


class Reply(NamedTuple):
    """An HTTP answer: status, body, media type and further headers."""

    status: int
    body: bytes
    media_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = _PLAIN


class Others(Protocol):
    """The other processes of a service."""

    @property
    def ready(self) -> bool:
        """True once all processes have been ready to answer."""
        ...

    def reload(self) -> bool:
        """Let all check for a newer bundle.

        Return True if all have switched to it, False if none has.
        """
        ...


class _ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class App:
    """The ASGI application.

    watch: loads bundles and holds the one that is served.
    measures: receives the metrics.
    page: files of the explorer page by path; None for those of the installation.
    others: the other processes of the service; None if there is one process.
    draining: if True, /readyz fails while requests are still answered.
    """

    def __init__(
        self,
        watch: Watch,
        measures: Measures,
        settings: Settings,
        page: Mapping[str, PageFile] | None = None,
        others: Others | None = None,
    ) -> None:
        self.watch = watch
        self.others = others
        self.measures = measures
        self.settings = settings
        self.events = None
        if settings.events is not None:
            self.events = EventLog(opened(settings), settings, measures)
        store: ItemStore | None = None
        if isinstance(settings.events, RedisPlace):
            store = RedisItems(settings.events)
        elif settings.events is not None:
            store = SQLiteItems(settings.events, settings.keeping.synchronous, is_open=True)
        self.items = ItemChanges(store, watch, measures, settings.processes)
        self.feedback = Feedback(settings)
        measures.counted(self.feedback.families)
        if self.events is not None:
            self.events.alarms = self.feedback.alarms
        self.service = Service(
            *(lambda: watch.current, settings.limits, measures, self.events),
            feedback=self.feedback,
        )
        self.workers = Workers(settings.workers, settings.queue)
        self.draining = False
        self.arrivals = select.poll()  # polls the listening sockets
        self._rests = False
        self._worked = 0.0  # CPU seconds of the event loop's thread at the end of its last rest
        self._page = page_files() if page is None else page
        self.routes: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            self.routes.setdefault(route.path, {})[route.method] = route
        self._pooled = {
            route.path.encode(): route.path
            for route in ROUTES
            if route.asks is not None and (route.method, route.token) == ("POST", "read")
        }
        self._busy = _on_the_wire(_refusal(RequestError(*Workers.FULL)))
        self._process, self._requests = token_hex(4).encode(), 0
        self._tokens = {
            name: None if token is None else token.encode()
            for name, token in (
                ("read", settings.token),
                ("write", settings.write_token),
                ("admin", settings.admin_token),
            )
        }
        models: dict[type[Message], Any] = {
            asks: question.model for asks, question in self.service.questions.items()
        }
        for asks in (EventsRequest, ItemsRequest, RevertRequest, ChangesRequest):
            models[asks] = limited(asks, settings.limits)
        self.models = models
        self.openapi = document(ROUTES, models, version("shortlist"))
        self.api = _api(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":  # web sockets are not supported
            return
        started = perf_counter()
        heads = dict(scope["headers"])
        asked = LoggedRequest(self._request_id(heads), scope["method"], "other", started)
        try:
            _check_heads(scope, heads)
            route = self._route(scope)
            asked = asked._replace(route=route.path)
            self._check_host(heads)
            self._check_token(heads, route)
            _check_parameters(scope["query_string"], route)
            _check_without_body(heads, route)
            if route.method == "DELETE" or (route.method == "POST" and route.asks is not None):
                reply = await self._answer(route, scope["path"], heads, receive)
            elif "page" in route.path or route.path == "/":
                reply = self._page_file(scope["path"])
            else:
                await self._framework(asked, scope, receive, send)
                return
        except RequestError as error:
            reply = _refusal(error)
            if error.code == "busy":
                self._rest()
        except _ClientGoneError:
            if self.settings.access_log:
                log(asked, CLIENT_GONE, 0)
            return
        except asyncio.CancelledError:
            if not self.draining:
                raise
            reply = _refusal(
                RequestError("draining", "the service shut down before the answer was ready")
            )
        except Exception:
            logger.exception("%s failed", asked.route)
            reply = _refusal(RequestError("internal", "the service failed; its log has the reason"))
        self._note(asked, reply.status, len(reply.body))
        headers = [*_headers(reply), *self._last_headers(asked, reply.headers)]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _note(self, asked: LoggedRequest, status: int, size: int) -> None:
        """Count an answered request, and log it."""
        self.measures.request(asked.route, status, perf_counter() - asked.started)
        if self.settings.access_log:
            log(asked, status, size)

    def _last_headers(self, asked: LoggedRequest, headers: Iterable[Header]) -> list[Header]:
        """The headers of every answer; while draining, they close the connection."""
        last = [(_REQUEST_ID, asked.id)]
        if self.draining and _CLOSE not in headers:
            last.append(_CLOSE)
        return last

    def _request_id(self, heads: Mapping[bytes, bytes]) -> bytes:
        """The client's request id if it is valid and not a token; otherwise a new id."""
        given = heads.get(_REQUEST_ID, b"")
        if _PLAIN_ID.fullmatch(given) and not any(
            token is not None and hmac.compare_digest(given, token)
            for token in self._tokens.values()
        ):
            return given
        self._requests += 1
        return b"%s-%x" % (self._process, self._requests)

    def refuse(self, path: bytes, headers: Iterable[Header]) -> bytes | None:
        """Return the complete HTTP answer to a POST while the queue is full, otherwise None.

        Nothing else of the request is read, so a refusal costs a tenth of an answer.
        """
        if not self.workers.full or path not in self._pooled:
            return None
        asked = LoggedRequest(
            self._request_id(dict(headers)), "POST", self._pooled[path], perf_counter()
        )
        head, body = self._busy
        self._note(asked, 503, len(body))
        self._rest()
        return b"%s%s: %s\r\n\r\n%s" % (head, _REQUEST_ID, asked.id, body)

    def turn_away(self, status: int, size: int) -> bytes:
        """Count and log an answer to invalid HTTP; return the request id for it."""
        asked = LoggedRequest(self._request_id({}), "", "other", perf_counter())
        self._note(asked, status, size)
        return asked.id

    def _rest(self) -> None:
        """Pause the event loop after a refusal, so that the worker threads get the processor.

        A refused client may retry at once. Without pauses the event loop would do little but refuse
        and would hold the interpreter lock. After 4 ms of work it rests for as long as it has
        worked, at most 20 ms, so the workers get at least half of the time. While connections wait
        to be accepted, which happens one per turn, it works for up to 20 ms first.
        """
        if self._rests:
            return
        self._rests = True

        def rest() -> None:
            self._rests = False
            worked = thread_time() - self._worked
            if worked >= (_MOST_WORK if self.arrivals.poll(0) else _WORK):
                self.workers.leave_alone(min(worked, _MOST_REST))
                self._worked = thread_time()

        asyncio.get_running_loop().call_soon(rest)

    def reload(self) -> bool:
        """Check for a newer bundle in all processes; return whether the bundle changed."""
        return self.watch.look(again=True) if self.others is None else self.others.reload()

    def close(self) -> None:
        """End the threads and close the stores."""
        self.watch.stop()
        self.workers.close()
        self.feedback.close()
        if self.events is not None:
            self.events.close()
        self.items.close()

    async def run(self, work: Callable[..., bytes], *arguments: Any) -> bytes:
        """Run blocking work in the worker pool. Errors: RequestError "busy"."""
        future = self.workers.submit(work, *arguments)
        self.measures.waiting.set(self.workers.pending)
        try:
            async with asyncio.timeout(self.settings.timeouts.answer):
                return await future
        except TimeoutError:
            raise RequestError("busy", "the answer took too long; try again later") from None

    async def _answer(
        self, route: Route, path: str, heads: Mapping[bytes, bytes], receive: Receive
    ) -> Reply:
        if route.method == "DELETE":
            return Reply(200, await self._forget(path))
        assert route.asks is not None
        body = await self._body(heads, receive)
        if route.token == "write":
            return Reply(200, await self._keep(body))
        if route.token == "admin":
            change = self.items.change if route.asks is ItemsRequest else self.items.revert
            # Not in the worker pool: a change takes longer than an answer and would delay answers.
            return Reply(200, await asyncio.to_thread(change, self.models[route.asks], body))
        return Reply(200, await self.run(self.service.answer_bytes, route.asks, body))

    async def _keep(self, body: bytes) -> bytes:
        """Store the events of a request; once this returns, they survive the process."""
        log, served = self.service.event_log(), self.service.served()
        try:
            asked = read(self.models[EventsRequest], body)
            sent = events_of(served, asked, log.store.now() / 1e6)
            told = self.feedback.read(asked.events)
            log.check_pace(sent)
            kept = await log.append(sent)
        except RequestError:
            self.measures.refused_events.inc()
            raise
        self.feedback.happened(served, sent, told, kept)
        return encode({"sequence": kept.sequence, "repeated": kept.repeated})

    async def _forget(self, path: str) -> bytes:
        """Delete a user's stored events; name the bundles that still hold events of the user."""
        log, served = self.service.event_log(), self.service.served()
        user = user_of(served, path.removeprefix(_USERS))
        count = await log.forget(user)
        holding = await asyncio.to_thread(held_by, self.watch.path, served, user)
        return encode({"user": user, "events": count, "held_by": holding})

    async def _body(self, heads: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Read a JSON body within the limits of size and time. Errors: RequestError."""
        most = self.settings.limits.body
        if not _fits(heads.get(b"content-length", b"0"), most):
            raise RequestError("too_large", f"a body may have at most {most} bytes")
        if b"content-encoding" in heads:
            raise RequestError("unsupported_media_type", "compressed bodies are not supported")
        if heads.get(b"content-type", b"").partition(b";")[0].strip().lower() != _JSON:
            raise RequestError("unsupported_media_type", "the body must be application/json")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.timeouts.body):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    parts.append(part := message.get("body", b""))
                    size += len(part)
                    if size > most:
                        raise RequestError("too_large", f"a body may have at most {most} bytes")
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise RequestError("timeout", "the body did not arrive in time") from None

    def _route(self, scope: Scope) -> Route:
        path, method = scope["path"], scope["method"]
        methods = self.routes.get(path)
        if methods is None and path in self._page:
            methods = self.routes["/page/{file}"]
        if path.startswith(_USERS) and len(path) > len(_USERS):
            methods = self.routes[f"{_USERS}{{user}}"]
        elif methods is None or "{" in path:
            raise RequestError("not_found", "the service has no such path")
        route = methods.get(method)
        if route is None:
            raise RequestError("method_not_allowed", f"this path allows {', '.join(methods)}")
        return route

    def _check_host(self, heads: Mapping[bytes, bytes]) -> None:
        """Without a token, accept only local Host names: this stops DNS rebinding."""
        if self._tokens["read"] is None and not is_loopback(_without_port(heads.get(b"host", b""))):
            raise RequestError(
                "forbidden", "without a token the service answers only requests to localhost"
            )

    def _check_token(self, heads: Mapping[bytes, bytes], route: Route) -> None:
        """Check the token of a request.

        Errors: RequestError. Neither its message nor the log contains what the client sent.
        """
        if route.token == "none":
            return
        wanted = self._tokens[route.token]
        if wanted is None:
            if route.token == "read":
                return
            raise RequestError(
                "forbidden", f"no {route.token} token is set, so this path is closed"
            )
        scheme, _, given = heads.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            given = b""
        if not hmac.compare_digest(given, wanted):
            others = [token for name, token in self._tokens.items() if name != route.token]
            if any(token and hmac.compare_digest(given, token) for token in others):
                raise RequestError("forbidden", f"this path needs the {route.token} token")
            raise RequestError("unauthorized", "this path needs a token: Authorization: Bearer ...")

    def _page_file(self, path: str) -> Reply:
        file = self._page.get(path)
        if file is None:
            raise RequestError("not_found", "this installation has no explorer page")
        return Reply(200, file.content, file.media_type.encode(), _PAGE_HEADERS)

    async def _framework(
        self, asked: LoggedRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let FastAPI answer a request without a body."""
        status, size, begun = 500, 0, False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status, size, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                headers = message["headers"]
                message["headers"] = [*headers, *self._last_headers(asked, headers)]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.api(scope, receive, watched)
        except Exception:
            logger.exception("%s failed", asked.route)
            if not begun:
                raise
        self._note(asked, status, size)


def _api(app: App) -> FastAPI:
    """The FastAPI application with the routes without a body."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    watch = app.watch

    @api.exception_handler(RequestError)
    async def refused(_: Request, error: Any) -> Response:
        return _response(_refusal(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Any) -> Response:
        route = app.routes[request.url.path][request.method]
        assert route.asks is not None
        faults: list[Any] = [
            {**one, "loc": one["loc"][1:]} for one in error.errors()
        ]  # without "query"
        message = explain_request(faults, app.models[route.asks], dict(request.query_params))
        return _response(_refusal(RequestError("invalid_request", message)))

    @api.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return _response(
            _refusal(RequestError("internal", "the service failed; its log has the reason"))
        )

    @api.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @api.get("/readyz")
    async def readyz() -> Response:
        if app.draining:
            raise RequestError("draining", "the service is shutting down")
        if watch.current is None:
            raise RequestError("not_ready", "no bundle is loaded yet")
        if app.others is not None and not app.others.ready:
            raise RequestError("not_ready", "some processes of the service have no bundle yet")
        return _json({"status": "ready"})

    @api.get("/metrics")
    async def metrics() -> Response:
        app.measures.waiting.set(app.workers.pending)
        return Response(app.measures.text(), media_type="text/plain; version=0.0.4")

    @api.get("/openapi.json")
    async def openapi() -> Response:
        return _json(app.openapi)

    @api.get("/v1/bundle")
    async def bundle() -> Response:
        served = watch.current
        if served is None:
            raise RequestError("not_ready", "no bundle is loaded yet")
        return _json(
            {
                "bundle": served.id,
                "retriever": served.kind,
                "name": served.name,
                "loaded_at": served.loaded_at,
                "item_change": served.change,
                "metrics": served.bundle.metrics,
                "refused": _refused(watch),
            }
        )

    @api.get("/v1/report")
    async def report() -> Response:
        return _ready(await app.run(app.service.report))

    @api.get("/v1/feedback")
    async def feedback() -> Response:
        return _json({"bundle": app.service.served().id, **app.feedback.columns()})

    @api.get("/v1/map")
    async def items() -> Response:
        return _ready(await app.run(app.service.map))

    users_request: Any = app.service.questions[UsersRequest].model

    @api.get("/v1/users")
    async def users(asked: Annotated[users_request, Query()]) -> Response:
        return _ready(await app.run(app.service.answer, UsersRequest, asked))

    latest_request: Any = app.service.questions[LatestRequest].model

    @api.get("/v1/events")
    async def latest(asked: Annotated[latest_request, Query()]) -> Response:
        return _ready(await app.run(app.service.answer, LatestRequest, asked))

    changes_request: Any = app.models[ChangesRequest]

    @api.get("/admin/items/changes")
    async def changes(asked: Annotated[changes_request, Query()]) -> Response:
        # Not in the worker pool: it waits while a bundle is loaded.
        return _ready(await asyncio.to_thread(app.items.listed, asked))

    @api.post("/admin/reload")
    async def reload() -> Response:
        # Not in the worker pool: a load takes seconds and would delay answers.
        changed = await asyncio.to_thread(app.reload)
        served = watch.current
        if served is None:
            raise RequestError("not_ready", "no valid bundle was found")
        return _json({"bundle": served.id, "changed": changed, "refused": _refused(watch)})

    return api


def _check_heads(scope: Scope, heads: Mapping[bytes, bytes]) -> None:
    """Refuse ambiguous headers, which a proxy might read differently. Errors: RequestError."""
    if len(heads) < len(scope["headers"]):
        names = [name for name, _ in scope["headers"]]
        for name in _ONCE:
            if names.count(name) > 1:
                raise RequestError("invalid_http", f"duplicate header {name.decode()}")
    if scope["http_version"] == "1.1" and b"host" not in heads:
        raise RequestError("invalid_http", "the header host is missing")


def _check_parameters(text: bytes, route: Route) -> None:
    """Refuse a query string that would be ignored. Errors: RequestError."""
    if not text:
        return
    if route.method != "GET" or (route.asks is None and _has_fields(route)):
        raise RequestError("invalid_request", f"{route.method} of this path takes no query string")
    if route.asks is not None:
        names = Counter(
            name for name, _ in parse_qsl(text.decode("latin-1"), keep_blank_values=True)
        )
        for name, times in names.items():
            if times > 1:
                raise RequestError(
                    "invalid_request", f"duplicate key {name[:100]!r} in the query string"
                )


def _check_without_body(heads: Mapping[bytes, bytes], route: Route) -> None:
    """Refuse a body that would be ignored; two bytes, such as `{}`, hold no field.

    Errors: RequestError.
    """
    takes_body = route.method == "POST" and route.asks is not None
    length = heads.get(b"content-length", b"0")
    has_body = length not in (b"0", b"1", b"2") or b"transfer-encoding" in heads
    if has_body and not takes_body and _has_fields(route):
        raise RequestError(
            "invalid_request",
            f"{route.method} of this path takes no body, so its fields would do nothing: leave it "
            "out",
        )


def _has_fields(route: Route) -> bool:
    """Whether a client may mean something by fields: not for probes, pages and files."""
    return route.answers is not None and route.token != "none"


def _without_port(host: bytes) -> str:
    """The name in a Host header.

    >>> _without_port(b"localhost:80"), _without_port(b"[::1]"), _without_port(b"localhost:x")
    ('localhost', '[::1]', 'localhost:x')
    """
    name, _, port = host.rpartition(b":")
    return (name if name and port.isdigit() else host).decode("latin-1")


def _fits(length: bytes, most: int) -> bool:
    """Whether a Content-Length is a number and at most `most`."""
    return length.isdigit() and len(length) < 19 and int(length) <= most


def _refused(watch: Watch) -> list[dict[str, str]]:
    return [{"name": refused.name, "reason": refused.reason} for refused in watch.refused]


def _refusal(error: RequestError) -> Reply:
    """The HTTP answer for an error."""
    status = STATUS[error.code]
    headers = _PLAIN
    if status in (429, 503):
        headers = (*headers, _RETRY)
    elif status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    elif status in (408, 413):  # because the rest of the body is not read
        headers = (*headers, _CLOSE)
    body = orjson.dumps({"error": {"code": error.code, "message": error.message}})
    return Reply(status, body, headers=headers)


def _json(value: Any) -> Response:
    return _ready(orjson.dumps(value))


def _ready(body: bytes) -> Response:
    return _response(Reply(200, body))


def _response(reply: Reply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, reply.media_type.decode())


def _on_the_wire(reply: Reply) -> tuple[bytes, bytes]:
    """Head and body of an answer in bytes; the head does not end, so headers can be added."""
    lines = b"".join(b"%s: %s\r\n" % header for header in _headers(reply))
    reason = HTTPStatus(reply.status).phrase.encode()
    return b"HTTP/1.1 %d %s\r\n%s" % (reply.status, reason, lines), reply.body


def _headers(reply: Reply) -> list[Header]:
    return [
        (b"content-type", reply.media_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
