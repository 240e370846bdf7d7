/** The explorer: the query form, the answers of the service, and the parts of the page. */

import { Acting } from "./act.js";
import { Refused, ask, idOf, isLocked, isWhole, useToken } from "./api.js";
import { count, figure, find, make, several } from "./dom.js";
import { showFeedback } from "./feedback.js";
import { figures } from "./figures.js";
import { Live } from "./live.js";
import { ItemMap } from "./map.js";
import { Picker } from "./picker.js";

const MOST = 1000; // candidates, and items of a history: what the service allows by default
const EXPLAINED = 100; // items of one question why
const NEWEST = 12; // items of a history that show at first
const STRONGEST = 6; // reasons of an item that are listed one by one
const ALIKE = 6; // similar items
const OFFERED = 8; // users or items that a field offers

/** What the served bundle is, and what it has said so far. Begun anew for each bundle. */
let known = begin();

/** The question on the page: `user`, or `history` (oldest first) of somebody unknown. */
let question = null;

/** Its answer: {history, known, events, items, scores, channels, fallback, unknown}. */
let answer = null;

let running = new AbortController();
let looking = new AbortController();
let opener = null; // what had the focus before an item was opened
let opened; // the item in the panel

function begin() {
  return {
    bundle: null,
    about: null,
    userIsWhole: null,
    itemIsWhole: null,
    users: [],
    total: 0,
    titles: new Map(),
    why: null, // whether the retriever can say why: null until it was asked
    report: null,
  };
}

/** Ask, and notice when another bundle answers than the one this page knows. */
async function asked(path, body, signal, door) {
  const said = await ask(path, body, signal, door);
  if (known.bundle !== null && said.bundle !== undefined && said.bundle !== known.bundle) {
    known.bundle = null; // once is enough, however many answers are on their way
    say("A new bundle is served. Asking it …");
    start();
    throw new DOMException("another bundle", "AbortError");
  }
  return said;
}

// Start, and start again for a new bundle or token.

async function start() {
  running.abort();
  looking.abort();
  const mine = (running = new AbortController());
  known = begin();
  answer = null;
  closeItem(false);
  quiet();
  const shownFigures = !find("figures").hidden;
  try {
    const about = await ask("/v1/bundle", undefined, mine.signal);
    Object.assign(known, { bundle: about.bundle, about });
    const called = `${about.retriever} · bundle ${about.bundle.slice(0, 10)}`;
    find("bundle").replaceChildren(make("span", { title: about.bundle }, called));
    const { users, total } = await asked(`/v1/users?limit=${OFFERED}`, undefined, mine.signal);
    Object.assign(known, { users, total });
    if (users.length > 0) {
      known.userIsWhole = isWhole(users[0]);
      const body = { user: users[0], limit: 1 };
      const { items } = await asked("/v1/history", body, mine.signal);
      if (items.length > 0) known.itemIsWhole = isWhole(items[0]);
    }
  } catch (error) {
    trouble(error, start);
    return;
  }
  find("token-form").hidden = true;
  map.points = null;
  loadMap();
  if (shownFigures) loadFigures();
  await live.start();
  if (mine.signal.aborted) return;
  if (question === null) question = fromAddress();
  if (question === null) welcome();
  else await show();
}

/** A question from the address: #user=12 opens the page on that user. */
function fromAddress() {
  const text = new URLSearchParams(location.hash.slice(1)).get("user");
  if (!text) return null;
  const user = idOf(text, known.userIsWhole);
  if (user === undefined) return null;
  find("user").value = text;
  return { user };
}

function welcome() {
  say("");
  quiet();
  acting.offer(undefined);
  find("history-name").textContent = "History";
  find("candidates-name").textContent = "Candidates";
  find("history-body").replaceChildren(
    make("p", { class: "note" }, "No user is chosen yet. A user's items are shown here, newest first."),
  );
  const some = known.users.map((user) =>
    make("button", { type: "button", class: "chip", click: () => chooseUser(user) }, String(user)),
  );
  find("candidates-body").replaceChildren(
    known.total > 0
      ? make("p", { class: "note" }, `The bundle knows ${several(known.total, "user")}. ` +
          "Type an id above, or begin with one of these:")
      : make("p", { class: "note" }, "The bundle knows no users. Ask for somebody unknown."),
    make("div", { class: "chips" }, ...some),
  );
  markMap();
}

// Words for the reader.

const say = (text) => (find("status").textContent = text);

const quiet = () => (find("problem").hidden = true);

function trouble(error, again) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) throw error;
  find("columns").removeAttribute("aria-busy");
  say("");
  const problem = find("problem");
  problem.hidden = false;
  if (isLocked(error, "read")) {
    problem.replaceChildren(make("p", {}, error.message));
    find("token-form").hidden = false;
    find("token").focus();
    return;
  }
  problem.replaceChildren(
    make("p", {}, error.message),
    make("button", { type: "button", class: "plain", click: () => again() }, "Try again"),
  );
}

/** A mistake in the form: said, and the field is shown. */
function mistake(field, text) {
  const problem = find("problem");
  problem.hidden = false;
  problem.replaceChildren(make("p", {}, text));
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

function sound(...fields) {
  for (const field of fields) field.removeAttribute("aria-invalid");
}

/** Take back what was said of a field when its text changes. */
function forgive(field) {
  if (!field.hasAttribute("aria-invalid")) return;
  sound(field);
  quiet();
}

// The question.

const userField = find("user");
const itemsField = find("items");
const sizeField = find("k");
for (const field of [userField, itemsField, sizeField]) {
  field.addEventListener("input", () => forgive(field));
}

let chosen = []; // ids that somebody unknown met, oldest first

const unknownPerson = () => document.querySelector("[name=who]:checked").value === "anybody";

new Picker(
  userField,
  find("user-list"),
  async (text) => {
    try {
      const query = new URLSearchParams({ search: text, limit: OFFERED });
      const { users, total } = await asked(`/v1/users?${query}`);
      const rest = total - users.length;
      return {
        choices: users.map((user) => ({ value: user, label: String(user) })),
        more: total === 0 ? "No user id begins with this text." : rest > 0 ? `${count(rest)} more` : "",
      };
    } catch {
      return { choices: [], more: "" }; // the button will say what is wrong
    }
  },
  chooseUser,
);

new Picker(
  itemsField,
  find("items-list"),
  (text) => {
    if (!map.points || text.length < 2 || /[,;]/.test(text)) {
      return { choices: [], more: "", asIs: true };
    }
    const wanted = text.toLowerCase();
    const found = [];
    for (const index of map.order) {
      if (map.points.titles[index].toLowerCase().includes(wanted)) found.push(index);
      if (found.length > OFFERED) break;
    }
    return {
      choices: found.slice(0, OFFERED).map((index) => ({
        value: map.points.items[index],
        label: map.points.titles[index],
        note: String(map.points.items[index]),
      })),
      more: found.length > OFFERED ? "More items match: continue typing" : "",
      // Ids come before titles that are like one.
      asIs: known.itemIsWhole ? idOf(text, true) !== undefined : map.points.items.includes(text),
    };
  },
  (item) => choose([...chosen, item]),
);

function chooseUser(user) {
  userField.value = String(user);
  pose({ user });
}

/** Set what somebody unknown met, and ask. */
function choose(items) {
  chosen = items.slice(0, MOST);
  itemsField.value = "";
  pose({ history: chosen });
}

function pose(next) {
  question = next;
  sound(userField, itemsField, sizeField);
  quiet();
  const address = next.user === undefined ? "" : `#${new URLSearchParams({ user: next.user })}`;
  history.replaceState(null, "", address || location.pathname);
  return show();
}

function typedUser() {
  const text = userField.value.trim();
  if (text === "") {
    mistake(userField, "Type a user id first.");
    return;
  }
  const user = idOf(text, known.userIsWhole);
  if (user === undefined) {
    mistake(userField, `User ids of this bundle are whole numbers, and “${text}” is not one.`);
    return;
  }
  pose({ user });
}

/** Add the ids in the field; false where one of them cannot be an id of this bundle. */
function typedItems() {
  const pattern = known.itemIsWhole ? /[\s,;]+/ : /[,;\n]+/;
  const parts = itemsField.value.split(pattern).map((part) => part.trim()).filter(Boolean);
  const ids = parts.map((part) => idOf(part, known.itemIsWhole));
  const wrong = ids.indexOf(undefined);
  if (wrong >= 0) {
    mistake(itemsField, "Item ids of this bundle are whole numbers, and " +
      `“${parts[wrong]}” is not one. Titles can be picked from the list.`);
    return;
  }
  choose([...chosen, ...ids]);
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (known.bundle === null) start();
  else if (unknownPerson()) typedItems();
  else typedUser();
});

for (const radio of document.querySelectorAll("[name=who]")) {
  radio.addEventListener("change", () => {
    find("user-field").hidden = unknownPerson();
    find("items-field").hidden = !unknownPerson();
    if (unknownPerson()) pose({ history: chosen });
    else if (userField.value.trim()) typedUser();
    else {
      question = null;
      answer = null;
      welcome();
    }
  });
}

let patience;
for (const field of [sizeField, find("exclude")]) {
  field.addEventListener("input", () => {
    clearTimeout(patience);
    if (question !== null) patience = setTimeout(() => pose(question), 250);
  });
}

function size() {
  const k = Number(sizeField.value);
  if (Number.isInteger(k) && k >= 1 && k <= MOST) return k;
  mistake(sizeField, `Ask for 1 to ${count(MOST)} candidates.`);
  return undefined;
}

// The answer.

/**
 * Ask the question on the page. calm: nobody has asked another, so what is open stays open.
 * change: {words, without}: what has happened, and the item that has left the list by it; the list
 * then says how it differs from the one before.
 */
async function show({ calm = false, change = null } = {}) {
  const k = size();
  if (k === undefined || known.bundle === null) return;
  running.abort();
  const { signal } = (running = new AbortController());
  const columns = find("columns");
  columns.setAttribute("aria-busy", "true");
  const late = setTimeout(() => say("Asking …"), 200);
  const before = answer;
  try {
    const next = await load(question, k, signal);
    if (signal.aborted) return;
    answer = next;
  } catch (error) {
    if (error.name !== "AbortError") trouble(error, () => show());
    return;
  } finally {
    clearTimeout(late);
    if (!signal.aborted) columns.removeAttribute("aria-busy");
  }
  quiet();
  acting.offer(question.user, answer.request);
  const moves = change && before ? moved(before.items, change.without) : new Map();
  const back = calm ? keepFocus() : () => {};
  if (!calm) closeItem(false);
  renderChosen();
  renderHistory();
  renderCandidates(moves);
  if (calm && !find("item").hidden) aboutItem();
  else markMap();
  back();
  const met = question.user === undefined ? "" : `, ${several(answer.events, "event")} met`;
  say(change && before
    ? `${change.words} ${differs(before, moves)}`
    : `${several(answer.items.length, "candidate")} for ${whom()}${met}.`);
  explainAll(signal);
}

/** Where each candidate stood before, if not here: its place, or 0 where it is new. */
function moved(before, without) {
  const old = answer.items.includes(without) ? before : before.filter((item) => item !== without);
  const places = answer.items.map((item, index) => [item, old.indexOf(item), index]);
  return new Map(places.filter(([, was, index]) => was !== index).map(([item, was]) => [item, was + 1]));
}

function differs(before, moves) {
  const left = before.items.filter((item) => !answer.items.includes(item)).length;
  const fresh = [...moves.values()].filter((was) => was === 0).length;
  if (left + moves.size === 0) return "The list is the same.";
  return `${count(fresh)} of ${several(answer.items.length, "candidate")} are new, ` +
    `${count(moves.size - fresh)} have moved, ${count(left)} have left the list.`;
}

/** Return what gives the focus back to the same place of a list that is made anew. */
function keepFocus() {
  for (const list of ["history-body", "candidates-body"]) {
    const place = [...find(list).querySelectorAll("button")].indexOf(document.activeElement);
    if (place < 0) continue;
    return () => {
      const buttons = find(list).querySelectorAll("button");
      (buttons[Math.min(place, buttons.length - 1)] ?? find("candidates-name")).focus();
    };
  }
  return () => {};
}

const whom = () => (question.user === undefined ? "somebody unknown" : `user ${question.user}`);

async function load({ user, history: met }, k, signal) {
  const body = { k, exclude_seen: find("exclude").checked };
  const who = user === undefined ? { histories: [met] } : { users: [user] };
  const candidates = () => asked("/v1/recommend", { ...who, ...body }, signal);
  // A store that is slow once is asked once more before the list goes without its events.
  const [said, past] = await Promise.all([
    candidates().then((first) => (first.without_events ? candidates() : first)),
    user === undefined
      ? { known: false, events: met.length, items: met, titles: [] }
      : asked("/v1/history", { user, limit: MOST }, signal),
  ]);
  past.items.forEach((item, index) => known.titles.set(item, past.titles[index]));
  await learnTitles([...said.items[0], ...(user === undefined ? met : [])], signal);
  return {
    history: past.items,
    known: past.known,
    events: past.events,
    items: said.items[0],
    scores: said.scores[0],
    channels: said.channels?.[0] ?? null,
    fallback: said.fallback[0],
    request: said.requests?.[0],
    withoutEvents: said.without_events === true,
    unknown: said.unknown_items?.[0] ?? 0,
  };
}

async function learnTitles(items, signal) {
  const wanted = [...new Set(items)].filter((item) => known.titles.get(item) === undefined);
  if (wanted.length === 0) return;
  const { titles } = await asked("/v1/titles", { items: wanted }, signal);
  wanted.forEach((item, index) => known.titles.set(item, titles[index]));
}

/** What to call an item: its title, or its id. */
const title = (item) => known.titles.get(item) ?? String(item);

const isStrange = (item) => known.titles.get(item) === null;

function renderChosen() {
  const chips = unknownPerson() ? chosen : [];
  find("chosen").replaceChildren(
    ...chips.map((item, index) =>
      make("li", {}, make("button", {
        type: "button",
        class: isStrange(item) ? "chip strange" : "chip",
        "aria-label": `Take out ${title(item)}`,
        click: () => {
          choose(chosen.filter((_, place) => place !== index));
          itemsField.focus();
        },
      }, `${title(item)} ×`)),
    ),
  );
}

function renderHistory() {
  const newest = [...answer.history].reverse();
  const body = find("history-body");
  find("history-name").replaceChildren("History ",
    make("span", { class: "quiet" }, newest.length > 0 ? "newest first" : ""));
  if (newest.length === 0) {
    body.replaceChildren(make("p", { class: "note" }, question.user === undefined
      ? "Nothing yet: add items above."
      : answer.known ? "This user met nothing." : "The bundle does not know this user."));
    return;
  }
  const list = make("ol", { class: "rows" });
  const add = (items) => list.append(...items.map((item) => make("li", {}, historyRow(item))));
  add(newest.slice(0, NEWEST));
  body.replaceChildren(list);
  if (newest.length > NEWEST) {
    const more = make("button", { type: "button", class: "plain expand" },
      `Show all ${count(newest.length)}`);
    more.addEventListener("click", () => {
      add(newest.slice(NEWEST));
      more.remove();
      list.children[NEWEST].firstChild.focus();
    });
    body.append(more);
  }
  if (answer.events > newest.length) {
    body.append(make("p", { class: "note" }, `The newest of ${several(answer.events, "event")}.`));
  }
}

function historyRow(item) {
  return make("button", { type: "button", class: "row", click: (event) => openItem(item, event) },
    make("span", {}, title(item)),
    isStrange(item) ? make("span", { class: "under" }, "unknown to this bundle") : null);
}

function renderCandidates(moves) {
  const { items, scores, channels, fallback, unknown } = answer;
  find("candidates-name").replaceChildren("Candidates ",
    make("span", { class: "quiet" }, `for ${whom()}`));
  const notes = [];
  if (fallback) {
    notes.push(question.user !== undefined && !answer.known
      ? "This user is unknown, so popular items are shown."
      : "No items are known, so popular items are shown.");
  }
  if (answer.withoutEvents) {
    notes.push("The store of events did not answer in time, so this list ignores the latest events.");
  }
  if (unknown > 0) notes.push(`${several(unknown, "item")} unknown to the bundle: ignored.`);
  const head = notes.map((text) => make("p", { class: "aside" }, text));
  if (items.length === 0) {
    find("candidates-body").replaceChildren(...head,
      make("p", { class: "note" }, "No item is left to recommend. Include the items that they have met?"));
    return;
  }
  const met = new Set(answer.history);
  const rows = items.map((item, index) =>
    make("li", acting.isOn ? { class: "acted" } : {}, make(
      "button",
      { type: "button", class: "row ranked", click: (event) => openItem(item, event) },
      make("span", { class: "rank" }, String(index + 1)),
      make("span", {}, title(item)),
      make("span", { class: "score" }, make("span", { class: "unseen" }, "score "),
        figure(scores[index])),
      make("span", { class: "under" },
        channels ? make("span", { class: "channel" }, channels[index]) : null,
        met.has(item) ? make("span", { class: "seen" }, "met") : null,
        moves.has(item)
          ? make("span", { class: "moved" }, moves.get(item) ? `was ${moves.get(item)}` : "new")
          : null),
    ), acting.button(item, title(item))),
  );
  find("candidates-body").replaceChildren(...head, make("p", { class: "note", id: "why-note" }),
    make("ol", { class: "rows" }, ...rows));
  find("why-note").hidden = true;
}

// Why.

/** The body of /v1/explain for the question on the page. */
const whose = () =>
  question.user === undefined ? { history: question.history } : { user: question.user };

/** Put the strongest reason under each candidate, where the retriever can name one. */
async function explainAll(signal) {
  if (answer.items.length === 0) return;
  if (known.why !== false) {
    try {
      for (let start = 0; start < answer.items.length; start += EXPLAINED) {
        const items = answer.items.slice(start, start + EXPLAINED);
        const { reasons } = await asked("/v1/explain", { ...whose(), items }, signal);
        if (signal.aborted) return;
        known.why = true;
        underline(byItem(reasons), start);
      }
      return;
    } catch (error) {
      if (!(error instanceof Refused)) return;
      if (error.code === "not_supported") known.why = false;
    }
  }
  if (known.why === false) {
    find("why-note").hidden = false;
    find("why-note").textContent = `Why? ${cannotSay()}`;
  }
}

function cannotSay() {
  const kind = known.about.retriever;
  return `A bundle of kind “${kind}” compares vectors: a score is how well two of them ` +
    "agree, so it has no reasons.";
}

function underline(reasons, start) {
  const rows = find("candidates-body").querySelectorAll(".under");
  answer.items.slice(start, start + EXPLAINED).forEach((item, index) => {
    const channel = answer.channels?.[start + index];
    const mine = (reasons.get(item) ?? []).filter(
      (reason) => reason.channel === undefined || reason.channel === channel,
    );
    const strongest = mine.find(({ contribution }) => contribution === null || contribution > 0);
    if (strongest) rows[start + index].append(make("span", {}, inWords(strongest)));
  });
}

/** The columns of an explanation as a list of reasons for each item. */
function byItem(reasons) {
  const found = new Map();
  reasons.item.forEach((item, index) => {
    if (!found.has(item)) found.set(item, []);
    found.get(item).push({
      kind: reasons.kind[index],
      because: reasons.because[index],
      contribution: reasons.contribution[index],
      title: reasons.title[index],
      channel: reasons.channel?.[index],
    });
  });
  return found;
}

function inWords({ kind, because, contribution, title: name }) {
  switch (kind) {
    case "event":
      return `${contribution < 0 ? "despite" : "because of"} ${name ?? because}`;
    case "user":
      return `similar user ${because} met it`;
    case "attribute":
      return `attribute: ${because}`;
    case "popularity":
      return because === "global" ? "popular with everybody" : `popular for ${because}`;
    case "bias":
      return "high score for every user";
    default:
      return `${kind}: ${because}`;
  }
}

function reasonList(reasons, most) {
  const largest = Math.max(...reasons.map(({ contribution }) => Math.abs(contribution ?? 0)), 1e-12);
  const lines = reasons.slice(0, most).map((reason) => {
    const { contribution } = reason;
    const bar = make("span", contribution < 0 ? { class: "against" } : {});
    bar.style.width = `${(Math.abs(contribution ?? 0) / largest) * 100}%`;
    return make("li", {}, make("span", {}, inWords(reason)),
      make("span", { class: "score" }, figure(contribution)),
      contribution === null ? null : make("span", { class: "bar", "aria-hidden": "true" }, bar));
  });
  const rest = reasons.slice(most);
  if (rest.length > 0) {
    const sum = rest.reduce((total, { contribution }) => total + (contribution ?? 0), 0);
    lines.push(make("li", {}, make("span", {}, several(rest.length, "weaker reason")),
      make("span", { class: "score" }, figure(sum))));
  }
  return make("ul", { class: "reasons" }, ...lines);
}

// One item.

async function openItem(item, event) {
  looking.abort();
  const { signal } = (looking = new AbortController());
  const panel = find("item");
  if (event && !panel.contains(event.currentTarget)) opener = event.currentTarget;
  opened = item;
  const name = make("h2", { id: "item-name", tabindex: "-1" }, title(item));
  const why = make("div", { id: "why" });
  const alike = make("div", { id: "similar" }, make("p", { class: "note" }, "Asking …"));
  panel.replaceChildren(
    make("div", { class: "title-row" }, name,
      make("button", { type: "button", class: "plain", click: () => closeItem(true) }, "Back")),
    make("p", { class: "note", id: "item-facts" }),
    why,
    alike,
    make("p", { class: "actions" }, make("button", {
      type: "button",
      class: "plain",
      click: () => askWith(item),
    }, "Ask for somebody who met this"), acting.button(item, title(item))),
  );
  panel.hidden = false;
  name.focus();
  aboutItem();
  await Promise.all([sayWhy(item, why, signal), saySimilar(item, alike, signal)]);
}

/** Say what is known of the item in the panel, and show where it stands. */
function aboutItem() {
  const place = answer?.items.indexOf(opened) ?? -1;
  const facts = [`id ${opened}`];
  if (place >= 0) facts.push(`candidate ${place + 1}`, `score ${figure(answer.scores[place])}`);
  if (answer?.history.includes(opened)) facts.push("met");
  const times = map.count(opened);
  if (times !== undefined) facts.push(`met ${several(times, "time")} in training`);
  find("item-facts").textContent = facts.join(" · ");
  markMap(opened);
  markRow(opened);
}

function askWith(item) {
  document.querySelector("[name=who][value=anybody]").checked = true;
  find("user-field").hidden = true;
  find("items-field").hidden = false;
  choose(chosen.includes(item) ? chosen : [...chosen, item]);
  itemsField.focus();
}

function closeItem(back) {
  looking.abort();
  find("item").hidden = true;
  markRow(undefined);
  markMap();
  if (back) (opener?.isConnected ? opener : find("candidates-name")).focus();
}

find("item").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeItem(true);
});

function markRow(item) {
  for (const [list, items] of [
    ["candidates-body", answer?.items ?? []],
    ["history-body", [...(answer?.history ?? [])].reverse()],
  ]) {
    find(list).querySelectorAll(".row").forEach((row, index) => {
      if (item !== undefined && items[index] === item) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
  }
}

async function sayWhy(item, where, signal) {
  if (question === null || isStrange(item)) return;
  const heading = make("h3", {}, `Why, for ${whom()}`);
  const plain = (text) => where.replaceChildren(heading, make("p", { class: "note" }, text));
  if (known.why === false) {
    plain(cannotSay());
    return;
  }
  try {
    const said = await asked("/v1/explain", { ...whose(), items: [item] }, signal);
    const { reasons } = said;
    known.why = true;
    const mine = byItem(reasons).get(item) ?? [];
    if (mine.length === 0) {
      plain("No part of the bundle has a reason for this item.");
      return;
    }
    const own = answer?.channels?.[answer.items.indexOf(item)];
    const channels = [...new Set(mine.map(({ channel }) => channel))];
    const most = channels.length > 1 ? STRONGEST / 2 : STRONGEST;
    // The channel that gave the item its place comes first.
    channels.sort((a, b) => (b === own) - (a === own));
    const parts = channels.flatMap((channel) => [
      channel === undefined ? null
        : make("p", { class: "under" }, make("span", { class: "channel" }, channel),
            make("span", {}, "in its own scores")),
      reasonList(mine.filter((reason) => reason.channel === channel), most),
    ]);
    if (own !== undefined && !channels.includes(own)) {
      parts.unshift(make("p", { class: "note" },
        `The channel “${own}” gave it this place, but cannot explain it. Reasons of other channels:`));
    }
    if (!said.reasons_sum) {
      parts.push(make("p", { class: "note" },
        "Two-tower models: what the score would lose without the item. The parts need not sum to it."));
    }
    where.replaceChildren(heading, ...parts.filter((part) => part !== null));
  } catch (error) {
    if (!(error instanceof Refused)) return;
    if (error.code === "not_supported") known.why = false;
    plain(known.why === false ? cannotSay() : error.message);
  }
}

/** Similar items; where the bundle compares none, what it gives to one who met this item alone. */
async function saySimilar(item, where, signal) {
  const heading = (text) => make("h3", {}, text);
  const note = (text) => make("p", { class: "note" }, text);
  try {
    let [items, scores, head] = [[], [], [heading("Similar items")]];
    try {
      const said = await asked("/v1/similar", { items: [item], k: ALIKE }, signal);
      [items, scores] = [said.items[0], said.scores[0]];
      if (said.fallback[0]) {
        head.push(note("No similar item is known, so popular items are shown."));
      }
    } catch (error) {
      if (error.code !== "not_supported") throw error;
      const body = { histories: [[item]], k: ALIKE };
      const said = await asked("/v1/recommend", body, signal);
      [items, scores] = [said.items[0], said.scores[0]];
      head.push(note("This bundle does not compare items with each other. " + (said.fallback[0]
        ? "It also has no candidates for a user who met only this item."
        : "Its candidates for a user who met only this item:")));
      if (said.fallback[0]) items = [];
    }
    await learnTitles(items, signal);
    if (signal.aborted) return;
    const rows = items.map((other, index) =>
      make("li", {}, make("button",
        { type: "button", class: "row", click: (event) => openItem(other, event) },
        make("span", {}, title(other)),
        make("span", { class: "score" }, make("span", { class: "unseen" }, "score "),
          figure(scores[index])))),
    );
    where.replaceChildren(...head, rows.length > 0
      ? make("ol", { class: "rows" }, ...rows)
      : note("None."));
  } catch (error) {
    if (error instanceof Refused) where.replaceChildren(heading("Similar items"), note(error.message));
  }
}

// The map.

const map = new ItemMap(
  find("points"),
  find("tip"),
  (index) => (find("map-said").textContent = index < 0 ? "" : spoken(index)),
  (index) => {
    const item = map.points.items[index];
    known.titles.set(item, map.points.titles[index]);
    opener = find("points");
    openItem(item);
  },
);

function spoken(index) {
  const item = map.points.items[index];
  const parts = [map.points.titles[index]];
  if (map.offered.has(item)) parts.push("candidate");
  if (map.met.has(item)) parts.push("met");
  return parts.join(", ");
}

function markMap(item) {
  map.mark(answer?.history ?? [], answer?.items ?? [], item);
  if (map.points) find("map-note").textContent = aboutMap();
}

function aboutMap() {
  const { items, explained } = map.points;
  const share = Math.round(explained.reduce((sum, part) => sum + part, 0) * 100);
  const flat = `${several(items.length, "item")}, on the first two principal components of their ` +
    `vectors: ${share} % of the variance, so neighbours on the map are not always similar.`;
  if (!answer || answer.items.length === 0) return flat;
  const drawn = map.holds(answer.items);
  if (drawn === answer.items.length) return flat;
  return `${flat} ${count(drawn)} of the ${count(answer.items.length)} candidates are drawn.`;
}

async function loadMap() {
  const bundle = known.bundle;
  const none = find("map-none");
  const plain = (text) => {
    none.textContent = text;
    none.hidden = false;
    find("map-body").hidden = true;
    find("zoom").hidden = true;
  };
  if (!map.points) plain("Loading the map …");
  try {
    const columns = await asked("/v1/map");
    if (bundle !== known.bundle) return;
    if (columns.items.length === 0) {
      map.points = null;
      plain("There are no items to draw.");
      return;
    }
    none.hidden = true;
    find("map-body").hidden = false;
    find("zoom").hidden = false;
    map.load(columns);
    if (known.itemIsWhole === null) known.itemIsWhole = isWhole(columns.items[0]);
    find("items-note").textContent =
      "Type a title and pick it, or ids with commas between them; Enter adds them.";
    markMap();
  } catch (error) {
    if (!(error instanceof Refused)) return;
    plain(error.code === "not_supported"
      ? `No map: a bundle of kind “${known.about.retriever}” has no item vectors to draw.`
      : `No map: ${error.message}`);
  }
}

find("zoom-in").addEventListener("click", () => map.zoom(1.6));
find("zoom-out").addEventListener("click", () => map.zoom(1 / 1.6));
find("zoom-all").addEventListener("click", () => map.whole());

// What happens now.

const live = new Live(asked, chooseUser, ({ users, items }) => {
  if (items) {
    known.titles.clear();
    loadMap();
  }
  if (question === null || (!items && !users.has(question.user))) return;
  const words = items ? "Items have changed." : `User ${question.user} has a new event.`;
  show({ calm: true, change: { words } });
});

const acting = new Acting(
  live,
  () => {
    if (answer !== null) renderCandidates(new Map());
  },
  ({ user, item }, number) => {
    const words = `Event ${number}: user ${user} has met ${title(item)}.`;
    if (question?.user === user) show({ calm: true, change: { words, without: item } });
    else say(words);
  },
);

// The figures.

async function loadFigures() {
  if (known.bundle === null) return;
  showFeedback(asked);
  if (known.report !== null) return;
  const body = find("figures-body");
  body.replaceChildren(make("p", { class: "note" }, "Loading the figures …"));
  try {
    known.report = await asked("/v1/report");
    body.replaceChildren(...figures(known.report, known.about));
    quiet();
  } catch (error) {
    if (!(error instanceof Refused)) return;
    body.replaceChildren(make("p", { class: "note" }, error.message));
    trouble(error, loadFigures);
  }
}

// The tabs, and the token.

const tabs = [...document.querySelectorAll("[role=tab]")];

function turnTo(tab) {
  for (const each of tabs) {
    const here = each === tab;
    each.setAttribute("aria-selected", String(here));
    each.tabIndex = here ? 0 : -1;
    find(each.getAttribute("aria-controls")).hidden = !here;
  }
  if (tab.id === "tab-figures") loadFigures();
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => turnTo(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = tabs[(index + step + tabs.length) % tabs.length];
    turnTo(next);
    next.focus();
  });
});

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(find("token").value);
  find("token").value = "";
  start();
});

start();
