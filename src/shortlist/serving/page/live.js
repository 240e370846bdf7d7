/** Live view: the newest events of all users, and changes of items. */

import { Refused, isLocked, useToken } from "./api.js";
import { find, make, several } from "./dom.js";

const EVERY = 2000; // milliseconds between requests while the page is visible
const LISTED = 8; // events, and changes of items
const BYTES = 16; // of an event's id

export class Live {
  /**
   * asked(path, body, signal, door): ask the service. pick(user): a user of the list was chosen.
   * moved({users, items}): users of new events, those sent from here apart; whether items changed.
   */
  constructor(asked, pick, moved) {
    Object.assign(this, { asked, pick, moved, sending: false, turn: 0, own: new Set() });
    document.addEventListener("visibilitychange", () => !document.hidden && this.look());
    find("changes-show").addEventListener("click", () => this.changes());
  }

  /** Begin anew: another bundle, another token, or the first time. */
  async start() {
    Object.assign(this, { here: false, last: 0, change: null });
    find("live-list").replaceChildren();
    await this.look();
  }

  /** Ask what is new, and again after a while. Without events in the service there is no card. */
  async look() {
    clearTimeout(this.timer);
    const turn = ++this.turn;
    if (!this.sending && !document.hidden) {
      try {
        const said = await this.asked(`/v1/events?limit=${LISTED}`);
        if (turn !== this.turn) return;
        this.here = true;
        if (!this.sending) this.list(said);
      } catch (error) {
        if (!(error instanceof Refused)) return; // another bundle: `start` comes again
        if (error.code === "not_supported" || isLocked(error, "read")) {
          find("live").hidden = true;
          return;
        }
      }
    }
    if (turn === this.turn) this.timer = setTimeout(() => this.look(), EVERY);
  }

  list({ sequence, users, items, titles, kinds, times, item_change: change }) {
    find("live").hidden = false;
    const list = find("live-list");
    const fresh = sequence.map((number, place) => ({ number, user: users[place],
      item: items[place], title: titles[place], kind: kinds[place], time: times[place] }))
      .filter(({ number }) => number > this.last);
    list.prepend(...fresh.map((event) => this.row(event)));
    for (const row of [...list.children].slice(LISTED)) {
      if (!row.contains(document.activeElement)) row.remove();
    }
    find("live-none").hidden = list.children.length > 0;
    const others = fresh.filter(({ number }) => !this.own.has(number)).map(({ user }) => user);
    const before = this.change;
    this.last = Math.max(this.last, ...sequence);
    this.change = change;
    find("live-items").textContent = change > 0
      ? `Items have changed: the last change is number ${change}.`
      : "No item was changed.";
    if (before === null) return; // the first look
    const changed = change !== before;
    if (changed && !find("changes-body").hidden) this.changes();
    if (changed || others.length > 0) this.moved({ users: new Set(others), items: changed });
  }

  row({ number, user, item, title, kind, time }) {
    return make("li", {}, make(
      "button",
      { type: "button", class: "row", click: () => this.pick(user) },
      make("span", {}, title ?? String(item)),
      make("span", { class: "score" }, make("span", { class: "unseen" }, "event "), String(number)),
      make("span", { class: "under" },
        make("span", { class: "channel" }, `user ${user}`),
        kind === null ? null : make("span", {}, kind),
        make("span", {}, new Date(time * 1000).toLocaleString()),
        title === null ? make("span", {}, "unknown to this bundle") : null),
    ));
  }

  /** Keep an event, as the service takes it; returns its number. Throws Refused. */
  async send(event) {
    this.sending = true;
    try {
      const { sequence } = await this.asked("/v1/events", { events: [event] }, undefined, "write");
      this.own.add(sequence[0]);
      return sequence[0];
    } finally {
      this.sending = false;
      this.look();
    }
  }

  /** The newest changes of items, which administrators may read. */
  async changes() {
    const body = find("changes-body");
    body.hidden = false;
    try {
      const said = await this.asked(`/admin/items/changes?limit=${LISTED}`, undefined, undefined,
        "admin");
      const names = await this.titles(said.changes.flatMap(({ values }) => values));
      const called = (item) => names.get(item) ?? String(item);
      const left = said.left_out.map(({ item, reason }) =>
        make("li", {}, make("p", {}, `Not applied to ${called(item)}: ${reason}`)));
      body.replaceChildren(
        said.changes.length === 0 ? make("p", { class: "note" }, "Nothing was changed.") :
          make("ol", { class: "changes" }, ...said.changes.map((one) => change(one, called))),
        make("ul", { class: "changes" }, ...left),
      );
    } catch (error) {
      if (!(error instanceof Refused)) return;
      const parts = [make("p", { class: "note" }, error.message)];
      if (isLocked(error, "admin")) {
        parts.push(tokenForm("admin", "Administrator's token", () => this.changes()));
      }
      body.replaceChildren(...parts);
      body.querySelector("input")?.focus();
    }
  }

  async titles(values) {
    const items = [...new Set(values.map(({ item }) => item))];
    if (items.length === 0) return new Map();
    const { titles } = await this.asked("/v1/titles", { items });
    return new Map(items.map((item, place) => [item, titles[place]]));
  }
}

function change({ change: number, made_at: time, values, total, reverts, reverted }, called) {
  const parts = values.map(({ item, part, value }) => `${called(item)}: ${inWords(part, value)}`);
  if (reverts !== null) parts.push(`reverts change ${reverts}`);
  if (total > values.length) parts.push(`and ${several(total - values.length, "value")} more`);
  return make("li", {},
    make("p", { class: "under" }, make("span", { class: "channel" }, `change ${number}`),
      make("span", {}, new Date(time * 1000).toLocaleString()),
      reverted === null ? null : make("span", {}, "taken back")),
    ...parts.map((part) => make("p", {}, part)));
}

function inWords(part, value) {
  if (part === "(removed)") return value ? "removed" : "restored";
  if (part === "(added)") return "added";
  if (part === "(available)") {
    const at = (seconds) => new Date(seconds * 1000).toLocaleString();
    if (value === null) return "always available";
    const [since, until] = value;
    return ["available", since === null ? null : `from ${at(since)}`,
      until === null ? null : `until ${at(until)}`].filter(Boolean).join(" ");
  }
  return `${part} = ${Array.isArray(value) ? value.join(", ") : value}`;
}

/** A form that asks for the token of a door; it stays in memory, as that of the page. */
export function tokenForm(door, label, used) {
  const field = make("input", { id: `token-${door}`, type: "password", autocomplete: "off",
    spellcheck: "false" });
  return make("form", {
    class: "token",
    submit: (event) => {
      event.preventDefault();
      useToken(field.value, door);
      field.value = "";
      used();
    },
  }, make("div", { class: "field" }, make("label", { for: field.id }, label), field),
    make("button", { type: "submit", class: "plain" }, "Use it"));
}

/** An id for an event. (randomUUID is there only over https and on this machine.) */
export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(BYTES)),
  (byte) => byte.toString(16).padStart(2, "0")).join("");
