/** Click figures of the answered lists, recall of the shown items, and alarms. */

import { Refused } from "./api.js";
import { count, figure, find, make, several } from "./dom.js";

const PARTS = { all: "all lists", bundle: "bundle", fallback: "popular items stood in",
  slice: "known events of the user", channel: "channel" };
const ALARMS = {
  click_through: "fewer lists are clicked than before",
  fallback: "many lists are popular items for unknown users",
  index_recall: "the recall of the index is too low",
  store: "the store of events does not work",
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
    if (!(error instanceof Refused)) return; // another bundle is served: the caller starts again
    place.replaceChildren(); // the card of the report shows the error
  }
}

function card({ figures, requests, index, alarms }, again) {
  const note = (text) => make("p", { class: "note" }, text);
  const rows = figures.by.map((by, at) => make("tr", {},
    make("th", { scope: "row" }, PARTS[by] ?? by),
    ...[which(by, figures.value[at]), ...counts(figures, by, at), figure(figures.recall_at_10[at]),
      figure(figures.recall_at_100[at])].map((text) => make("td", {}, text))));
  const heads = HEADS.map((name) => make("th", { scope: "col" }, name));
  const others = Object.entries({ none: "without the id of a list", late: "more than a day after the list",
    unknown: "with an id that is not of this service" })
    .filter(([what]) => requests[what] > 0)
    .map(([what, words]) => `${several(requests[what], "event")} came ${words}.`);
  return make("section", { class: "card", "aria-labelledby": "feedback-name" },
    make("h2", { id: "feedback-name" }, "Clicks on lists"),
    ...alarms.map((name) => make("p", { class: "aside" }, `Alarm: ${ALARMS[name] ?? name}.`)),
    note(rows.length === 0
      ? "No list with an id was answered yet. Lists have ids if the service stores events."
      : "Since this process started. Recall is the share of the items with an event after a list " +
        "that were in its first places."),
    rows.length === 0 ? null : make("div", { class: "wide", role: "region", tabindex: "0",
      "aria-label": "Clicks on lists, as a table" }, make("table", { class: "figures-table" },
      make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))),
    ...others.map(note),
    index.recall === null ? null : note(`The index finds ${figure(index.recall)} of what an exact ` +
      `scan finds (${several(index.compared, "request")} compared).`),
    make("button", { type: "button", class: "plain", click: again }, "Refresh"));
}

const which = (by, value) =>
  (by === "fallback" ? (String(value) === "true" ? "yes" : "no") : String(value ?? ""));

function counts(figures, by, at) {
  const lists = by === "channel" ? ["–", count(figures.items[at]), "–"]
    : [count(figures.lists[at]), count(figures.items[at]),
      `${count(figures.clicked[at])} (${figure(figures.clicked[at] / figures.lists[at])})`];
  return [...lists, count(figures.clicks[at])];
}
