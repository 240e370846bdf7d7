"""The explorer page: in a real Chromium it shows what the library says, to every kind of reader.

The journeys need Playwright (a Python package) and a Chromium (Debian: chromium), or another that
SHORTLIST_CHROMIUM names. Without them they are skipped, and only the files are examined.
"""

import json
import os
import re
import shutil
from dataclasses import replace
from urllib.request import Request, urlopen

import numpy as np
import polars as pl
import pytest

from patience import PATIENCE, PATIENT
from shortlist.asking.queries import Queries
from shortlist.bundle.bundle import save
from shortlist.channels.counting.popular import Popular
from shortlist.channels.learned.two_tower import TwoTower
from shortlist.data.dataset import Dataset
from shortlist.data.schema import Schema
from shortlist.evaluation.evaluate import evaluate
from shortlist.evaluation.significance import Interval
from shortlist.serving.page_files import FOLDER, page_files
from shortlist.serving.settings import Settings

CHROMIUM = os.environ.get("SHORTLIST_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

SOURCES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


# The files.


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_needs_nothing_from_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    outside = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", text)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_keeps_to_a_strict_content_security_policy(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        assert (
            re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text) == []
        )
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                   "new Function", "setAttribute(\"style\"", "srcdoc", "localStorage",
                   "sessionStorage", "document.cookie"):  # fmt: skip
        assert way_in not in text, f"{path.name}: {way_in}"


def test_every_file_that_a_file_names_is_served():
    served = page_files()
    assert "/" in served
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"[\"'](/page/[^\"']+)", text)
        named += [f"/page/{name}" for name in re.findall(r"from \"\./([^\"]+)\"", text)]
        assert set(named) <= set(served), path.name


# The journeys.


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page's journeys need: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("the page's journeys need a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            # Root has no sandbox in a container; the only pages here are this repository's own.
            args=["--no-sandbox"] if os.getuid() == 0 else [],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page on a port, and sees to it that no script failed and no policy was broken."""
    contexts, faults = [], []

    def go(port: int, address: str = "/", **options):
        context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: "Failed to load" in said.text or faults.append(said.text))
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith(f"http://127.0.0.1:{port}/") or faults.append(asked.url)
            ),
        )
        page.goto(f"http://127.0.0.1:{port}{address}")
        return page

    yield go
    for context in contexts:
        context.close()
    assert faults == []


def candidates(page):
    """The titles of the candidates on the page, once the answer is there."""
    page.locator("#columns:not([aria-busy]) #candidates .row").first.wait_for()
    return page.locator("#candidates .row > span:nth-child(2)").all_inner_texts()


def titles_of(retriever, ids):
    return retriever.data.titles(retriever.data.items.rows(list(ids)))


def expected(retriever, user, k=20, **options):
    found = retriever.recommend(Queries([user], **options), k)
    return titles_of(retriever, found.ids[0])


def ask(page, user):
    page.get_by_label("User id").fill(str(user))
    page.keyboard.press("Enter")
    page.get_by_text(f"for user {user},").wait_for()


def test_the_journey_with_towers(fitted, tmp_path, running, visit):
    report = evaluate(fitted, k=[10], ladder=True)
    tiny = replace(report.slices[0], name="tiny", users=3, recall={10: Interval(0.5, None, None)})
    report = replace(report, slices=(*report.slices, tiny))
    save(fitted, tmp_path / "bundle", metrics=report.to_dict())
    data = fitted.data
    row = int(np.bincount(data.log.user).argmax())
    user = data.users.ids[row - 1]
    met = data.titles(data.log.item[data.log.user == row])[::-1]
    assert len(met) > 12
    with running(tmp_path / "bundle") as service:
        page = visit(service.port)
        page.get_by_text(f"The bundle knows {len(data.users)} users").wait_for()
        page.get_by_label("User id").press_sequentially(str(user))
        page.get_by_role("option", name=str(user), exact=True).click()
        assert candidates(page) == expected(fitted, user)
        assert page.locator("#history .row").all_inner_texts() == met[:12]
        page.get_by_role("button", name=f"Show all {len(met)}").click()
        assert page.locator("#history .row").all_inner_texts() == met
        assert page.locator("#status").inner_text() == (
            f"20 candidates for user {user}, {len(met)} events met."
        )
        row = page.locator("#candidates .row").first
        row.get_by_text("because of ").wait_for()  # what its score would lose without an item
        assert row.locator(".under").inner_text().removeprefix("because of ") in met

        page.locator("#candidates .row").nth(2).click()
        assert page.locator("#item-name").inner_text() == expected(fitted, user)[2]
        alike = fitted.similar([fitted.recommend([user], 20).ids[0][2]], 6)
        page.locator("#similar .row").first.wait_for()
        shown = page.locator("#similar .row > span:first-child").all_inner_texts()
        assert shown == titles_of(fitted, alike.ids[0])

        page.get_by_label("Leave out what they have met").uncheck()
        page.locator("#candidates .seen").first.wait_for()
        assert candidates(page) == expected(fitted, user, exclude_seen=False)
        page.get_by_role("spinbutton", name="Candidates").fill("5")
        page.get_by_text("5 candidates for user").wait_for()
        assert candidates(page) == expected(fitted, user, 5, exclude_seen=False)

        page.get_by_role("tab", name="Figures").click()
        recall = service_report(service)["metrics"]["metrics"]["recall@10"]["mean"]
        page.get_by_role("cell", name=f"{recall:.4f}").first.wait_for()
        assert page.locator("#bundle-id").inner_text() == service.app.watch.current.id
        summary = page.locator("section.card", has=page.get_by_role("heading", name="In short"))
        assert summary.locator("p").all_inner_texts() == list(report.in_short())[:-1]
        slices = page.locator(
            "section.card", has=page.get_by_role("heading", name="Slices of users and items")
        )
        with_interval = slices.locator("tbody tr", has=page.locator(".interval")).count()
        assert with_interval == sum(part.half(10) != "" for part in report.slices)
        assert with_interval < len(report.slices)
        page.get_by_text("Coverage and popularity bias").wait_for()
        page.get_by_text("has no measurements of an index").wait_for()


def test_the_index_is_drawn_and_told_with_its_trials(bundle, running, visit):
    trials = [
        {"kind": "faiss-hnsw", "settings": {"m": 16, "ef_search": beam}, "recall": recall,
         "single_us": time, "batched_us": time / 3, "build_seconds": 0.5, "chosen": beam == 32}
        for beam, recall, time in ((16, 0.9712, 41.5), (32, 0.9934, 60.25), (64, 0.9991, 98.0))
    ]  # fmt: skip
    measured = {"k": 100, "target_recall": 0.99, "trials": trials}

    def with_index(route):
        report = route.fetch().json()
        route.fulfill(json=report | {"index": measured})

    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        page.route("**/v1/report", with_index)
        page.get_by_role("tab", name="Figures").click()
        chosen = page.get_by_role("row", name="faiss-hnsw m 16 ef_search 32 (chosen)")
        chosen.wait_for()
        assert chosen.get_by_role("cell").all_inner_texts() == ["0.9934", "60.25 µs"]
        places = page.evaluate(
            "[...document.querySelectorAll('.curve circle')].map((c) => [+c.getAttribute('cx'),"
            " +c.getAttribute('cy')])"
        )
        across, down = np.array(places).T
        assert (np.diff(across) > 0).all()  # slower: further right
        assert (np.diff(down) < 0).all()  # more recall: higher up


def service_report(service):
    return service.app.watch.current.bundle.manifest.fields


def test_the_map_shows_the_item_under_the_pointer_and_opens_it(fitted, bundle, running, visit):
    with running(bundle) as service:
        page = visit(service.port, f"/#user={fitted.data.users.ids[0]}")
        offered = candidates(page)
        page.get_by_label("Map of items: arrow keys").wait_for()
        page.wait_for_function(
            """() => { const c = document.querySelector("#points"); return c.width && c
            .getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0); }"""
        )
        page.locator("#points").focus()
        page.keyboard.press("ArrowRight")
        first = page.locator("#tip").inner_text()
        said = page.locator("#map-said").inner_text()
        assert said.startswith(first)
        assert said.endswith(("candidate", "met"))
        spot = page.evaluate(
            """() => { const [c, t] = ["#points", "#tip"].map((s) => document.querySelector(s)
            .getBoundingClientRect()); return [t.x + t.width / 2, t.y, t.height, c.y]; }"""
        )
        page.mouse.move(5, 5)
        page.locator("#points").blur()
        assert page.locator("#tip").is_hidden()
        # The tip stands 12 pixels over its point, or 14 under it where the edge is near.
        for down in (spot[2] + 12, -14):
            page.mouse.move(spot[0], spot[1] + down)
            if page.locator("#tip").is_visible():
                break
        page.locator("#tip").wait_for()
        pointed = page.locator("#tip").inner_text()
        page.mouse.down()
        page.mouse.up()
        page.locator("#item-name").wait_for()
        assert page.locator("#item-name").inner_text() == pointed
        assert len(offered) == 20


def test_the_journey_with_channels_that_say_why(blended, blend_bundle, running, visit):
    user = blended.data.users.ids[3]
    found = blended.recommend([user], 20)
    with running(blend_bundle) as service:
        page = visit(service.port, f"/#user={user}")
        assert candidates(page) == titles_of(blended, found.ids[0])
        named = found.to_frame()["channel"].to_list()
        assert page.locator("#candidates .channel").all_inner_texts() == named
        place = named.index("ease")
        item = found.ids[0][place]
        reasons = blended.explain([user], [[item]]).filter(pl.col("channel") == "ease")
        best = titles_of(blended, [int(reasons["because"][0])])[0]
        page.locator("#candidates .row").nth(place).get_by_text(f"because of {best}").wait_for()
        other = page.locator("#candidates .row").nth(named.index("popular"))
        other.get_by_text("popular with everybody").wait_for()
        assert "because of" not in other.inner_text()
        page.locator("#candidates .row").nth(place).click()
        page.locator("#why .reasons li").first.wait_for()
        strongest = page.locator("#why .reasons li").first.inner_text().split("\n")
        assert strongest == [f"because of {best}", f"{reasons['contribution'][0]:.4f}"]
        page.locator("#similar .row").first.wait_for()
        alike = page.locator("#similar .row > span:first-child").all_inner_texts()
        assert alike == titles_of(blended, blended.similar([item], 6).ids[0])
        page.locator("#similar .row").first.click()
        page.locator("#item-name", has_text=alike[0]).wait_for()
        assert "has no item vectors" in page.locator("#map-none").inner_text()


def test_somebody_unknown_is_asked_for_by_items(fitted, bundle, running, visit):
    items = fitted.data.items.ids.head(3).to_list()
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        page.get_by_label("Somebody unknown").check()
        page.get_by_text("so popular items are shown").wait_for()
        field = page.get_by_label("Items they met")
        field.fill(f"{items[0]}, {items[1]} -5")
        field.press("Enter")
        page.get_by_text("1 item unknown to the bundle: ignored").wait_for()
        found = fitted.recommend(Queries(histories=[[*items[:2], -5]]), 20)
        assert candidates(page) == titles_of(fitted, found.ids[0])
        assert page.locator("#history .row > span:first-child").all_inner_texts() == [
            "-5",
            *titles_of(fitted, items[:2])[::-1],
        ]
        page.get_by_role("button", name="Take out -5").click()
        page.locator(".chip.strange").wait_for(state="detached")
        name = titles_of(fitted, items[2:])[0]
        field.fill(name)
        page.get_by_role("option", name=name).first.click()
        page.get_by_role("button", name=f"Take out {name}").wait_for()
        found = fitted.recommend(Queries(histories=[items]), 20)
        page.get_by_text("20 candidates for somebody unknown").wait_for()
        assert candidates(page) == titles_of(fitted, found.ids[0])


def test_a_user_who_is_unknown_gets_popular_items_and_a_plain_word(fitted, bundle, running, visit):
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        ask(page, -77)
        page.get_by_text("This user is unknown, so popular items are shown.").wait_for()
        popular = Popular().fit_data(fitted.data).recommend([-77], 20)
        assert candidates(page) == titles_of(fitted, popular.ids[0])
        page.get_by_text("The bundle does not know this user.").wait_for()


def test_mistakes_are_said_where_they_are_made(bundle, running, visit):
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        problem = page.get_by_role("alert")
        user, k = page.get_by_label("User id"), page.get_by_role("spinbutton", name="Candidates")
        for field, text, said in (
            (user, "", "Type a user id first."),
            (user, "ada", "“ada” is not one"),
            (k, "0", "Ask for 1 to 1,000 candidates."),
            (k, "2.5", "Ask for 1 to 1,000 candidates."),
        ):
            user.fill("10001")
            k.fill("5")
            field.fill(text)
            page.get_by_role("button", name="Show candidates").click()
            problem.get_by_text(said).wait_for()
            assert field.get_attribute("aria-invalid") == "true"
            assert page.evaluate("document.activeElement.id") == field.get_attribute("id")


def test_a_service_that_is_busy_or_gone_is_said_and_asked_again(fitted, bundle, running, visit):
    user = fitted.data.users.ids[0]
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        busy = '{"error": {"code": "busy", "message": "full"}}'
        page.route("**/v1/recommend", lambda route: route.fulfill(status=503, body=busy))
        page.get_by_label("User id").fill(str(user))
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("The service is busy just now.").wait_for()
        page.unroute("**/v1/recommend")
        page.route("**/v1/recommend", lambda route: route.fulfill(status=500, body="<html>"))
        page.get_by_role("button", name="Try again").click()
        page.get_by_role("alert").get_by_text("this page cannot read").wait_for()
        page.unroute("**/v1/recommend")
        page.get_by_role("button", name="Try again").click()
        assert candidates(page) == expected(fitted, user)
        assert page.get_by_role("alert").is_hidden()
    page.get_by_role("button", name="Show candidates").click()
    page.get_by_role("alert").get_by_text("The service does not answer.").wait_for()


FOCUS = """(place) => {
  const here = document.activeElement;
  const style = getComputedStyle(here.type === "radio" ? here.nextElementSibling : here);
  const outlined = style.outlineStyle !== "none" && style.outlineWidth !== "0px";
  return [here.matches(place), here.id || here.textContent, outlined];
}"""


def test_the_keyboard_alone_is_enough(fitted, bundle, running, visit):
    user = fitted.data.users.ids[0]
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        page.get_by_label("Map of items: arrow keys").wait_for()
        seen = []

        def tab_to(place, most=60):
            for _ in range(most):
                page.keyboard.press("Tab")
                here = page.evaluate(FOCUS, place)
                seen.append(here)
                if here[0]:
                    return
            pytest.fail(f"Tab never came to {place}")

        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        tab_to("#user")
        page.keyboard.type(str(user)[:4])
        page.get_by_role("option").first.wait_for()
        page.keyboard.press("ArrowDown")
        chosen = page.get_by_role("option", selected=True).inner_text()
        assert page.locator("#user").get_attribute("aria-activedescendant") == "user-list-0"
        page.keyboard.press("Enter")
        assert candidates(page) == expected(fitted, int(chosen))
        tab_to("#candidates .row")
        page.keyboard.press("Enter")
        page.locator("#item-name:focus").wait_for()
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.matches('#candidates .row')")
        assert page.locator("#item").is_hidden()
        tab_to("#points")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        page.locator("#item-name:focus").wait_for()
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.id") == "points"
        assert [name for _, name, outline in seen if not outline] == []
        page.locator("#tab-explore").focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-figures"
        page.get_by_text("saved without an evaluation").wait_for()
        page.keyboard.press("ArrowRight")
        assert page.locator("#explore").is_visible()


CONTRASTS = """() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const found = numbers(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("canvas, noscript, svg")) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([e.textContent.trim().slice(0, 40), ratio]);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_in_its_width_and_in_readable_colours(
    scheme, blended, tmp_path, running, visit
):
    report = evaluate(blended, k=[10, 100]).to_dict()
    save(blended, tmp_path / "bundle", metrics=report)
    phone = {"viewport": {"width": 320, "height": 640}, "color_scheme": scheme, "has_touch": True}
    widths = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    with running(tmp_path / "bundle") as service:
        page = visit(service.port, f"/#user={blended.data.users.ids[0]}", **phone)
        candidates(page)
        page.locator("#candidates .row").first.tap()
        page.locator("#similar .row").first.wait_for()
        assert page.evaluate(widths) == [320, 320]
        assert page.evaluate(CONTRASTS) == []
        page.get_by_label("Somebody unknown").tap()
        page.get_by_text("20 candidates for somebody unknown").wait_for()
        page.get_by_label("Items they met").fill("nothing")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("is not one").wait_for()
        assert page.evaluate(widths) == [320, 320]
        assert page.evaluate(CONTRASTS) == []
        page.get_by_role("tab", name="Figures").tap()
        page.get_by_text("Coverage and popularity bias").wait_for()
        assert page.evaluate(widths) == [320, 320]
        assert page.evaluate(CONTRASTS) == []


def test_a_token_is_asked_for_and_kept_in_memory_alone(bundle, running, visit):
    token = "reader-reader-reader"
    with running(bundle, Settings(token=token)) as service:
        page = visit(service.port)
        page.get_by_text("answers only with its token").wait_for()
        field = page.get_by_label("This service asks for a token")
        field.fill("something-else-entirely")
        field.press("Enter")
        page.get_by_text("does not take this token").wait_for()
        field.fill(token)
        field.press("Enter")
        page.get_by_text("The bundle knows").wait_for()
        assert page.locator("#token-form").is_hidden()
        assert page.get_by_role("alert").is_hidden()
        kept = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,"
            " location.href, document.documentElement.outerHTML,"
            " document.querySelector('#token').value])"
        )
        assert token not in kept
        assert page.context.cookies() == []


def test_a_new_bundle_is_noticed_and_the_question_asked_again(
    split, fitted, tmp_path, running, visit
):
    save(fitted, tmp_path / "bundles" / "one")
    user = fitted.data.users.ids[0]
    with running(tmp_path / "bundles") as service:
        page = visit(service.port, f"/#user={user}")
        assert candidates(page) == expected(fitted, user)
        later = TwoTower(dim=8, epochs=1, batch_size=256, seed=4).fit(split)
        identity = save(later, tmp_path / "bundles" / "two")
        assert service.app.watch.look() or service.app.watch.current.id == identity
        assert expected(later, user) != expected(fitted, user)
        page.get_by_role("button", name="Show candidates").click()
        page.locator("#bundle", has_text=identity[:10]).wait_for()
        page.locator("#candidates .row", has_text=expected(later, user)[0]).first.wait_for()
        assert candidates(page) == expected(later, user)


WRITER, ADMIN = "writer-writer-writer", "admin-admin-admin-admin"


def open_shop(tmp_path, **more):
    """Settings of a service that keeps events."""
    tokens = {"write_token": WRITER, "admin_token": ADMIN}
    return Settings(events=tmp_path / "events.sqlite", timeouts=PATIENT, **tokens | more)


def give_token(page, label, token):
    page.get_by_label(label).fill(token)
    page.keyboard.press("Enter")


def tell(service, path, body, token):
    """Ask the service from outside the page."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}"}
    address = f"http://127.0.0.1:{service.port}{path}"
    with urlopen(Request(address, json.dumps(body).encode(), headers)) as said:
        return json.load(said)


def test_one_acts_as_a_user_and_the_list_follows_each_click(
    fitted, bundle, tmp_path, running, visit
):
    user = fitted.data.users.ids[0]
    before = fitted.recommend([user], 20).ids[0]
    first = before[2]
    with running(bundle, open_shop(tmp_path)) as service:
        page = visit(service.port, f"/#user={user}")
        assert candidates(page) == expected(fitted, user)
        page.get_by_text("None since the service started.").wait_for()
        page.get_by_label(f"Act as user {user}").focus()
        page.keyboard.press("Space")
        page.locator("#candidates .act-click").nth(2).focus()
        page.keyboard.press("Enter")
        page.get_by_text("accepts events only with its token").wait_for()
        give_token(page, "Token for events", "reader-reader-reader")
        page.get_by_text("does not take this token").wait_for()
        give_token(page, "Token for events", WRITER)
        name = titles_of(fitted, [first])[0]
        page.locator("#status", has_text=f"Event 1: user {user} has met {name}.").wait_for()
        after = Queries([user], recent=[[first]])
        assert candidates(page) == titles_of(fitted, fitted.recommend(after, 20).ids[0])
        assert page.locator("#history .row").first.inner_text() == name
        listed = page.locator("#live-list .row")
        assert listed.count() == 1
        assert listed.inner_text().startswith(name)
        assert f"user {user}" in listed.inner_text()

        # What has changed is said of the list, and of each candidate.
        now, was = fitted.recommend(after, 20).ids[0], [item for item in before if item != first]
        marks = ["new" if item not in was else f"was {was.index(item) + 1}"
                 for place, item in enumerate(now) if was[place:place + 1] != [item]]  # fmt: skip
        assert page.locator("#candidates .moved").all_inner_texts() == marks
        assert (
            f"{marks.count('new')} of 20 candidates are new" in page.locator("#status").inner_text()
        )

        # A second click, of a kind, goes without a question; the focus stays at its place.
        page.get_by_label("Kind of event").fill("view")
        button = page.locator("#candidates .act-click").first
        button.focus()
        page.keyboard.press("Enter")
        page.locator("#status", has_text="Event 2:").wait_for()
        page.locator("#live-list .row").first.get_by_text("view").wait_for()
        assert page.evaluate("document.activeElement.matches('#candidates .act-click')")
        assert candidates(page) == titles_of(
            fitted, fitted.recommend(Queries([user], recent=[[first, now[0]]]), 20).ids[0]
        )
        kept = page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,"
            " location.href, document.documentElement.outerHTML,"
            " [...document.querySelectorAll('input')].map((field) => field.value)])"
        )
        assert WRITER not in kept

        # Both clicks are counted as what came of the lists they were made in.
        page.get_by_role("tab", name="Figures").click()
        row = page.locator("#feedback tbody tr", has_text="all lists")
        row.wait_for()
        assert row.locator("td").all_inner_texts()[4:] == ["2", "1.0000", "1.0000"]
        assert "Alarm" not in page.locator("#feedback").inner_text()


def test_events_of_others_and_changes_of_items_show_as_they_come(
    fitted, bundle, tmp_path, running, visit
):
    users, items = fitted.data.users.ids, fitted.data.items.ids
    best = fitted.recommend([users[0]], 20).ids[0]
    with running(bundle, open_shop(tmp_path)) as service:
        page = visit(service.port, f"/#user={users[0]}")
        assert candidates(page) == expected(fitted, users[0])
        page.locator("#candidates .row").nth(3).click()  # an open item stays open
        page.locator("#item-name:focus").wait_for()
        events = [{"user": users[1], "item": items[0]}, {"user": users[0], "item": -5},
                  {"user": users[0], "item": best[0]}]  # fmt: skip
        tell(service, "/v1/events", {"events": events}, WRITER)
        page.locator("#status", has_text=f"User {users[0]} has a new event.").wait_for()
        shown = page.locator("#live-list .row > span:first-child").all_inner_texts()
        assert shown == [*titles_of(fitted, [best[0]]), "-5", *titles_of(fitted, [items[0]])]
        page.locator("#live-list").get_by_text("unknown to this bundle").wait_for()
        recent = Queries([users[0]], recent=[[-5, best[0]]])
        now = fitted.recommend(recent, 21).ids[0]
        assert candidates(page) == titles_of(fitted, now[:20])
        assert page.locator("#item-name:focus").count() == 1

        # An item is sold out, and leaves the list.
        change = {"available": [{"id": now[0], "until": 1}]}
        tell(service, "/admin/items", change, ADMIN)
        page.locator("#status", has_text="Items have changed.").wait_for()
        assert candidates(page) == titles_of(fitted, now[1:])
        page.get_by_text("the last change is number 1").wait_for()
        page.get_by_role("button", name="Show changes of items").click()
        page.get_by_text("shows this only with its administrator").wait_for()
        give_token(page, "Administrator's token", ADMIN)
        page.locator("#changes-body").get_by_text(
            f"{titles_of(fitted, now[:1])[0]}: available"
        ).wait_for()
        tell(service, "/admin/items/revert", {"change": 1}, ADMIN)
        page.locator("#changes-body").get_by_text("reverts change 1").wait_for()
        assert candidates(page) == titles_of(fitted, now[:20])

        page.locator("#live-list .row").last.click()
        page.get_by_text(f"for user {users[1]},").wait_for()


def test_a_service_without_events_offers_no_acting(fitted, bundle, running, visit):
    with running(bundle) as service:
        page = visit(service.port, f"/#user={fitted.data.users.ids[0]}")
        candidates(page)
        assert page.locator("#act").is_hidden()
        assert page.locator("#live").is_hidden()


def test_enter_takes_the_only_match_and_an_old_error_goes(fitted, bundle, running, visit):
    users, items = fitted.data.users.ids, fitted.data.items.ids
    with running(bundle) as service:
        page = visit(service.port)
        page.get_by_text("The bundle knows").wait_for()
        field, problem = page.get_by_label("User id"), page.get_by_role("alert")
        field.fill("ada")
        page.keyboard.press("Enter")
        problem.get_by_text("“ada” is not one").wait_for()
        start = next(
            text for text in (str(user)[:-1] for user in users)
            if sum(str(user).startswith(text) for user in users) == 1
        )  # fmt: skip
        (only,) = [user for user in users if str(user).startswith(start)]
        field.fill(start)
        assert problem.is_hidden()  # of a text that is not there any more
        page.keyboard.press("Enter")
        page.get_by_text(f"for user {only},").wait_for()
        assert field.input_value() == str(only)

        page.get_by_label("Somebody unknown").check()
        page.get_by_text("20 candidates for somebody unknown").wait_for()
        field = page.get_by_label("Items they met")
        name = titles_of(fitted, [items[0]])[0]
        field.press_sequentially(name)
        page.keyboard.press("Enter")
        page.get_by_role("button", name=f"Take out {name}").wait_for()

        page.route("**/v1/report", lambda route: route.abort())
        page.get_by_role("tab", name="Figures").click()
        problem.get_by_text("The service does not answer.").wait_for()
        page.unroute("**/v1/report")
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("saved without an evaluation").wait_for()
        assert problem.is_hidden()


def no_violation(page, view):
    """Examine what the page shows now, in both widths, with axe-core."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="these need the rules of axe-core: pip install axe-playwright-python",
    )
    found = []
    for width in (1280, 320):
        page.set_viewport_size({"width": width, "height": 900})
        said = axe.Axe().run(page, options=AXE).response
        found += [
            (view, width, rule["id"], [node["target"] for node in rule["nodes"]])
            for rule in said["violations"]
        ]
        assert said["passes"], "axe-core has examined nothing"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    page.set_viewport_size({"width": 1280, "height": 900})
    assert found == []


AXE = {
    "rules": {name: {"enabled": True} for name in ("label-content-name-mismatch", "target-size")}
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_breaks_a_rule_of_accessibility(scheme, fitted, tmp_path, running, visit):
    report = evaluate(fitted, k=[10], ladder=True)
    save(fitted, tmp_path / "bundle", metrics=report.to_dict())
    written = report.to_html("the model")
    user, item = fitted.data.users.ids[0], fitted.data.items.ids[0]
    settings = open_shop(tmp_path, token="reader-reader-reader")
    with running(tmp_path / "bundle", settings) as service:
        page = visit(service.port, color_scheme=scheme)
        page.get_by_text("answers only with its token").wait_for()
        no_violation(page, "a token is asked for")
        give_token(page, "This service asks for a token", "reader-reader-reader")
        page.get_by_text("The bundle knows").wait_for()
        page.get_by_label("User id").focus()
        page.get_by_role("option").first.wait_for()
        no_violation(page, "nobody is chosen, and users are offered")
        ask(page, user)
        page.locator("#candidates .row").first.click()
        page.locator("#why .reasons li").first.wait_for()
        page.locator("#similar .row").first.wait_for()
        no_violation(page, "candidates, and one that is opened")
        page.get_by_label(f"Act as user {user}").check()
        page.locator("#candidates .act-click").first.click()
        page.get_by_label("Token for events").wait_for()
        page.get_by_role("button", name="Show changes of items").click()
        page.get_by_label("Administrator's token").wait_for()
        no_violation(page, "tokens for events and changes")
        give_token(page, "Token for events", WRITER)
        page.locator("#live-list .row").wait_for()
        tell(service, "/admin/items", {"remove": [item]}, ADMIN)
        give_token(page, "Administrator's token", ADMIN)
        page.locator("#changes-body").get_by_text("removed").wait_for()
        page.locator("#candidates .moved").first.wait_for(state="attached")
        no_violation(page, "one acts, and items have changed")
        page.get_by_label("Somebody unknown").check()
        page.get_by_text("so popular items are shown").wait_for()
        page.get_by_label("Items they met").fill("-5, x")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("is not one").wait_for()
        no_violation(page, "somebody unknown, and a mistake")
        page.get_by_role("tab", name="Figures").click()
        page.get_by_text("Coverage and popularity bias").wait_for()
        no_violation(page, "figures")
        page.route(
            "**/report.html", lambda route: route.fulfill(body=written, content_type="text/html")
        )
        page.goto(f"http://127.0.0.1:{service.port}/report.html")
        page.get_by_text("How good is the model?").first.wait_for()
        no_violation(page, "the report as a file")


HOSTILE = '<img src=x onerror="document.title=1"><b>&amp;</b>'


def test_titles_and_ids_are_text_and_long_ids_keep_every_digit(tmp_path, running, visit):
    first = 2**62 + 1  # as a double it would end in ...904, like its neighbours
    met = [(user, (user + turn) % 4, turn) for user in range(40) for turn in range(3)]
    users, rows, times = zip(*met, strict=True)
    log = pl.DataFrame(
        {
            "user_id": [first + user for user in users],
            "item_id": [first + row for row in rows],
            "time": times,
        }
    )
    titles = [HOSTILE, "<script>1</script>", None, "<b>3</b>"]
    items = pl.DataFrame({"item_id": [first + row for row in range(4)], "title": titles})
    data = Dataset.load(log, items=items, schema=Schema(time="time", title="title"))
    save(Popular().fit(data.split("leave-last-out")), tmp_path / "bundle")
    with running(tmp_path / "bundle") as service:
        page = visit(service.port)
        page.get_by_role("button", name=str(first + 1), exact=True).click()
        page.get_by_text(f"for user {first + 1},").wait_for()
        page.get_by_label("Somebody unknown").check()
        field = page.get_by_label("Items they met")
        field.fill(f"{first},{first + 2}")
        field.press("Enter")
        page.get_by_role("button", name="Take out <img").wait_for()
        assert page.locator("#history .row").all_inner_texts() == [str(first + 2), HOSTILE]
        assert set(candidates(page)) == {"<script>1</script>", "<b>3</b>"}
        assert page.locator("main img, main script, main b").count() == 0
        assert page.title() == "Shortlist explorer"
