/** What came of the lists that were answered: clicks, recall of what was shown, and alarms. */

import { Refused } from "./api.js";
import { count, figure, find, make, several } from "./dom.js";

const PARTS = { all: "all lists", bundle: "bundle", fallback: "popular items stood in",
  slice: "known events of the user", channel: "channel" };
const ALARMS = {
  click_through: "fewer lists are clicked than before",
  fallback: "many lists are popular items, as nothing was known of their users",
  index_recall: "the index misses too much of what an exact scan finds",
  store: "the store of events cannot be used",
};
const HEADS = ["Lists", "Which", "Lists shown", "Items shown", "Lists clicked", "Items clicked",
  "Recall@10", "Recall@100"];

/** Show the card. asked(path): ask the service. */
export async function showFeedback(asked) {
  const place = find("feedback");
  try {
    const said = await asked("/v1/feedback");
    place.replaceChildren(card(said, () => showFeedback(asked)));
  } catch (error) {
    if (!(error instanceof Refused)) return; // another bundle: it is asked for anew
    place.replaceChildren(); // the card of the report says what is wrong
  }
}

function card({ figures, requests, index, alarms }, again) {
  const note = (text) => make("p", { class: "note" }, text);
  const rows = figures.by.map((by, at) => make("tr", {},
    make("th", { scope: "row" }, PARTS[by] ?? by),
    ...[which(by, figures.value[at]), ...counts(figures, by, at), figure(figures.recall_at_10[at]),
      figure(figures.recall_at_100[at])].map((text) => make("td", {}, text))));
  const heads = HEADS.map((name) => make("th", { scope: "col" }, name));
  const others = Object.entries({ none: "without an id of a list", late: "more than a day after it",
    unknown: "with an id that is not of this service" })
    .filter(([what]) => requests[what] > 0)
    .map(([what, words]) => `${several(requests[what], "event")} came ${words}.`);
  return make("section", { class: "card", "aria-labelledby": "feedback-name" },
    make("h2", { id: "feedback-name" }, "What came of lists"),
    ...alarms.map((name) => make("p", { class: "aside" }, `Alarm: ${ALARMS[name] ?? name}.`)),
    note(rows.length === 0
      ? "No list was answered yet that events could tell of: that takes a service with a store."
      : "Since this process began. Recall: of the items that users met after a list, the share " +
        "that stood in its first places."),
    rows.length === 0 ? null : make("div", { class: "wide", role: "region", tabindex: "0",
      "aria-label": "What came of lists, as a table" }, make("table", { class: "figures-table" },
      make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))),
    ...others.map(note),
    index.recall === null ? null : note(`The index finds ${figure(index.recall)} of what an exact ` +
      `scan finds (${several(index.compared, "request")} compared).`),
    make("button", { type: "button", class: "plain", click: again }, "Look again"));
}

const which = (by, value) =>
  (by === "fallback" ? (String(value) === "true" ? "yes" : "no") : String(value ?? ""));

function counts(figures, by, at) {
  const lists = by === "channel" ? ["–", count(figures.items[at]), "–"]
    : [count(figures.lists[at]), count(figures.items[at]),
      `${count(figures.clicked[at])} (${figure(figures.clicked[at] / figures.lists[at])})`];
  return [...lists, count(figures.clicks[at])];
}
