/** The report that was saved with a bundle: quality, comparisons and costs. */

import { count, draw, figure, make, several } from "./dom.js";

const METRICS = {
  recall: "share of what was held out that is in the list",
  hit_rate: "share of users with at least one hit",
  ndcg: "hits, weighted by rank",
  mrr: "one over the rank of the first hit",
  map: "precision at each hit, averaged",
  precision: "share of the list that was held out",
};

const LISTS = {
  coverage: ["coverage", "share of all items that are in at least one list"],
  gini: ["gini", "0: all items are shown equally often; 1: only one item is shown"],
  popularity_percentile: ["popularity percentile", "of a shown item, by popularity: 0.5 for random lists"],
  average_popularity: ["average popularity", "mean number of training events of a shown item"],
  novelty: ["novelty", "in bits: one more for half as many training events"],
  diversity: ["diversity", "how different the items of a list are: 0 identical, 1 nothing in common"],
};

const UNITS = { average_popularity: "events", novelty: "bits" };

const inUnit = (name, value) => (UNITS[name] && value !== undefined && value !== null
  ? `${value.toFixed(1)} ${UNITS[name]}` : figure(value));

/** Return the nodes of the tab. report: /v1/report; bundle: /v1/bundle. */
export function figures(report, bundle) {
  return [
    identity(report, bundle),
    summary(report.in_short),
    quality(report.metrics),
    ladder(report.metrics),
    slices(report.metrics),
    lists(report.metrics),
    speed(report.index),
    channels(report.plan),
    findings(report.findings),
    refused(bundle.refused),
  ].filter((node) => node !== null);
}

function card(title, ...children) {
  return make("section", { class: "card" }, make("h2", {}, title), ...children);
}

const note = (text) => make("p", { class: "note" }, text);

function identity(report, bundle) {
  const { data } = report;
  const facts = [
    ["Bundle", make("code", { id: "bundle-id" }, report.bundle)],
    ["Name", bundle.name],
    ["Retriever", report.retriever],
    ["Log", `${count(data.events)} events, ${several(data.users, "user")}, ` +
      `${several(data.items, "item")}`],
    ["Fitted on", `the ${data.fitted_on} rows of a ${data.split} split`],
    ["Made by", report.made_by],
    ["Loaded", new Date(bundle.loaded_at * 1000).toLocaleString()],
  ];
  const parts = facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  return card("This bundle", make("dl", { class: "facts" }, ...parts));
}

/** The sentences of the report; null for a bundle without them. */
function summary(sentences) {
  if (!sentences?.length) return null;
  return card("In short", ...sentences.map((line) => make("p", {}, line)));
}

/** "recall@10" -> ["recall", "10"]. */
const split = (name) => name.split("@");

function sizes(figures) {
  const found = new Set(Object.keys(figures).map((name) => split(name)[1]));
  return [...found].sort((a, b) => a - b);
}

function quality(metrics) {
  if (!metrics) {
    return card("Quality", note("This bundle was saved without an evaluation. " +
      "“shortlist train” writes one; “shortlist evaluate” measures a bundle that is there."));
  }
  const same = repeated(metrics.metrics);
  const popularity = metrics.baseline?.popularity ?? {};
  const difference = metrics.difference?.popularity ?? {};
  const bodies = sizes(metrics.metrics).map((k) =>
    make(
      "tbody",
      {},
      make("tr", {}, make("th", { colspan: 5, scope: "rowgroup", class: "group" },
        `The first ${k} candidates`)),
      ...Object.entries(METRICS)
        .filter(([name]) => `${name}@${k}` in metrics.metrics && !same.has(name))
        .map(([name, meaning]) => {
          const whole = `${name}@${k}`;
          const [own, beside, more] = [metrics.metrics[whole], popularity[whole], difference[whole]];
          return make(
            "tr",
            {},
            make("th", { scope: "row" }, name, make("span", { class: "size" }, `@${k}`),
              make("span", { class: "meaning" }, meaning)),
            make("td", {}, ...interval(own)),
            make("td", {}, ...interval(beside)),
            make("td", {}, ...interval(more, true)),
            make("td", { class: "plot" }, bars(own, beside)),
          );
        }),
    ),
  );
  const heads = ["Metric", "This bundle", "Popularity", "Difference"].map((name) =>
    make("th", { scope: "col" }, name),
  );
  const plot = make("th", { scope: "col", class: "plot" },
    make("span", { class: "key" }, make("span", { class: "mark mark-candidate" }), "bundle"),
    make("span", { class: "key" }, make("span", { class: "mark mark-met" }), "popularity"));
  return card(
    "Quality beside popularity",
    note(`${several(metrics.users, "user")}, each ranked over all ` +
      `${several(metrics.candidate_items, "item")}, ${metrics.split.kind} ${metrics.split.cut} ` +
      `part, seen items ${metrics.exclude_seen ? "left out" : "kept in"}. ` +
      "In small print: 95 % bootstrap intervals; the difference is paired by user."),
    make("table", { class: "figures-table" }, make("thead", {}, make("tr", {}, ...heads, plot)),
      ...bodies),
    ...[...same].map(([name, other]) => note(`Here ${name} equals ${other}, and is left out.`)),
    ...[...counted(metrics.counts ?? {}), ...(metrics.notes ?? [])].map(note),
  );
}

/** Metrics that repeat another, as with one held-out item a user: {name: the other}. */
function repeated(figures) {
  return new Map(Object.entries({ hit_rate: "recall", map: "mrr" }).filter(([name, other]) =>
    sizes(figures).every((k) =>
      figures[`${name}@${k}`]?.mean === figures[`${other}@${k}`]?.mean)));
}

/** Metrics of methods without training on the same rows. */
function ladder(metrics) {
  const rungs = metrics?.ladder ?? [];
  if (!rungs.length) return null;
  const [k] = sizes(rungs[0].metrics);
  const bodies = ["recall", "ndcg"].map((metric) => `${metric}@${k}`).map((name) =>
    make(
      "tbody",
      {},
      make("tr", {}, make("th", { colspan: 3, scope: "rowgroup", class: "group" }, name)),
      ...rungs.map((rung) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, rung.name),
          make("td", {}, ...interval(rung.metrics[name])),
          make("td", {}, ...interval(rung.difference[name], true)),
        )),
      make("tr", { class: "served" }, make("th", { scope: "row" }, "this bundle"),
        make("td", {}, ...interval(metrics.metrics[name])), make("td", {})),
    ));
  const heads = ["Method", "Figure", "This bundle minus it"].map((head) =>
    make("th", { scope: "col" }, head),
  );
  return card(
    "Comparison with methods without training",
    note("Fitted on the same rows and measured on the same users; the difference is paired by user."),
    make("table", { class: "figures-table" }, make("thead", {}, make("tr", {}, ...heads)),
      ...bodies),
  );
}

const SLICES = {
  history: "users by how many of their events were known",
  users: "users by whether they were trained on",
  items: "held-out items by how popular they were",
};

/** Metrics by slices of users and items, at the first list length. */
function slices(metrics) {
  const parts = metrics?.slices ?? [];
  if (!parts.length) return null;
  const name = `recall@${sizes(parts[0].metrics)[0]}`;
  const groups = [...new Set(parts.map((part) => part.by))];
  const bodies = groups.map((by) =>
    make(
      "tbody",
      {},
      make("tr", {}, make("th", { colspan: 5, scope: "rowgroup", class: "group" },
        SLICES[by] ?? by)),
      ...parts.filter((part) => part.by === by).map((part) => {
        const own = part.metrics[name];
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, part.slice),
          make("td", {}, count(part.users)),
          make("td", {}, count(part.events)),
          make("td", {}, ...interval(own)),
          make("td", {}, own.popularity.toFixed(4)),
        );
      }),
    ),
  );
  const heads = ["Slice", "Users", "Held-out events", name, "Popularity"].map((head) =>
    make("th", { scope: "col" }, head),
  );
  return card(
    "Slices of users and items",
    note("Share of the held-out events that the lists hold, mean over the users of a slice. " +
      "Head, torso and tail of the items have a third of the training events each. " +
      "In small print: 95 % intervals. A slice of few users, or of equal figures, has none."),
    make("table", { class: "figures-table" }, make("thead", {}, make("tr", {}, ...heads)),
      ...bodies),
  );
}

function counted(counts) {
  const said = {
    held_out_items_not_candidates:
      "held-out events name an item that cannot be recommended: they count as misses",
    held_out_items_already_seen: "held-out events repeat an item that the user had met: they count as misses",
    held_out_items_met_before: "held-out events repeat an item that the user had met and that stays in the lists",
    users_without_history: "users had no event before the cut",
    users_answered_by_fallback: "users were unknown and got popular items",
  };
  return Object.entries(said)
    .filter(([name]) => counts[name])
    .map(([name, text]) => `${count(counts[name])} ${text}.`);
}

/** Whether a figure has an interval: not if few users were measured, or all have the same figure. */
const ranges = (value) => value.low !== null && value.low !== value.high;

function interval(value, signed = false) {
  if (!value) return ["–"];
  const sign = (number) => `${signed && number > 0 ? "+" : ""}${number.toFixed(3)}`;
  const mean = `${signed && value.mean > 0 ? "+" : ""}${value.mean.toFixed(4)}`;
  if (!ranges(value)) return [mean];
  return [
    mean,
    make("span", { class: "interval" }, `${sign(value.low)} to ${sign(value.high)}`),
  ];
}

/** The two intervals on one scale that begins at 0; the numbers beside it say the same. */
function bars(own, beside) {
  const most = Math.max(...[own, beside].map((each) => each?.high ?? each?.mean ?? 0), 1e-9);
  const [width, height] = [150, 22];
  const at = (value) => (4 + (value / most) * (width - 8)).toFixed(1);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height,
    "aria-hidden": "true" });
  picture.append(draw("line", { x1: 4, x2: 4, y1: 2, y2: 20, class: "axis" }));
  for (const [value, kind, y] of [[own, "own", 7], [beside, "beside", 15]]) {
    if (!value) continue;
    if (ranges(value)) {
      picture.append(draw("line", { x1: at(value.low), x2: at(value.high), y1: y, y2: y,
        class: `${kind} reach` }));
    }
    picture.append(draw("circle", { cx: at(value.mean), cy: y, r: 3.2, class: kind }));
  }
  return picture;
}

function lists(metrics) {
  if (!metrics?.catalogue) return null;
  const beside = metrics.baseline?.popularity_catalogue ?? {};
  const bodies = sizes(metrics.catalogue).map((k) =>
    make(
      "tbody",
      {},
      make("tr", {}, make("th", { colspan: 3, scope: "rowgroup", class: "group" },
        `The first ${k} candidates`)),
      ...Object.entries(LISTS)
        .filter(([name]) => `${name}@${k}` in metrics.catalogue)
        .map(([name, [title, meaning]]) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, title, make("span", { class: "meaning" }, meaning)),
            make("td", {}, inUnit(name, metrics.catalogue[`${name}@${k}`])),
            make("td", {}, inUnit(name, beside[`${name}@${k}`])),
          ),
        ),
    ),
  );
  const heads = ["All lists together", "This bundle", "Popularity"].map((name) =>
    make("th", { scope: "col" }, name),
  );
  return card("Coverage and popularity bias",
    make("table", { class: "figures-table" }, make("thead", {}, make("tr", {}, ...heads)),
      ...bodies));
}

/**
 * The recall-latency picture, from what `shortlist index --json` prints: k, target_recall, and
 * trials of {kind, settings, recall, single_us, build_seconds, chosen}.
 */
function speed(index) {
  const title = "Recall against latency of the index";
  const trials = (index?.trials ?? []).filter(({ single_us: time }) => time > 0);
  if (trials.length === 0) {
    return card(title, note("This bundle has no measurements of an index. “shortlist index” " +
      "makes them. Without an index, a bundle searches exactly."));
  }
  const rows = trials.map((trial) =>
    make("tr", { class: trial.chosen ? "served" : null },
      make("th", { scope: "row" }, called(trial), trial.chosen ? " (chosen)" : ""),
      make("td", {}, trial.recall.toFixed(4)),
      make("td", { class: "time" }, `${figure(trial.single_us)} µs`)),
  );
  const heads = ["Setting", `Recall@${index.k}`, "One query"].map((name) =>
    make("th", { scope: "col" }, name),
  );
  return card(
    title,
    note("Recall against exact search of the same vectors. Target: at least " +
      `${index.target_recall} (dashed) in the shortest time. The large point is the chosen setting.`),
    curve(trials, index.target_recall),
    make("table", { class: "figures-table" }, make("thead", {}, make("tr", {}, ...heads)),
      make("tbody", {}, ...rows)),
  );
}

function called({ kind, settings }) {
  const parts = Object.entries(settings).map(([name, value]) => `${name} ${value}`);
  return [kind, ...parts].join(" ");
}

function curve(trials, target) {
  const [width, height, left, right, top, bottom] = [560, 240, 56, 24, 12, 34];
  const recalls = trials.map(({ recall }) => recall);
  const times = trials.map((trial) => trial.single_us);
  const low = Math.max(0, Math.min(...recalls, target) - 0.02);
  const [fast, slow] = [Math.min(...times), Math.max(...times)];
  const span = Math.log(slow / fast) || 1;
  const x = (time) => left + 12 + (Math.log(time / fast) / span) * (width - left - right - 12);
  const y = (recall) => top + ((1 - recall) / (1 - low)) * (height - top - bottom);
  const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });
  const text = (at, down, anchor, words) =>
    draw("text", { x: at, y: down, "text-anchor": anchor }, words);
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img",
    "aria-label": "Recall against the time of a query; the table below holds the numbers" });
  for (const recall of [1, (1 + low) / 2, low]) {
    picture.append(text(left - 8, y(recall) + 4, "end", recall.toFixed(3)),
      line(left, y(recall), width - right, y(recall), "grid"));
  }
  for (const time of new Set([fast, slow])) {
    picture.append(text(x(time), height - 12, "middle", `${figure(time)} µs`));
  }
  picture.append(text((left + width - right) / 2, height - 12, "middle", "one query"),
    line(left, top, left, height - bottom, "axis"),
    line(left, height - bottom, width - right, height - bottom, "axis"),
    line(left, y(target), width - right, y(target), "target"));
  const builds = new Map(); // one line per index
  for (const one of trials) {
    const build = `${one.kind} ${one.build_seconds}`;
    builds.set(build, [...(builds.get(build) ?? []), `${x(one.single_us)},${y(one.recall)}`]);
  }
  for (const points of builds.values()) {
    picture.append(draw("polyline", { class: "own path", points: points.join(" ") }));
  }
  for (const one of trials) {
    const said = `${called(one)}: ${one.recall.toFixed(4)}, ${figure(one.single_us)} µs`;
    picture.append(draw("circle", { cx: x(one.single_us), cy: y(one.recall),
      r: one.chosen ? 6 : 4, class: one.chosen ? "beside" : "own" }, draw("title", {}, said)));
  }
  return picture;
}

function channels(plan) {
  if (!plan?.channels) return null;
  const heads = ["Channel", "Slots", "Recall alone", "Hits of its own", "Time"];
  return card(
    "Channels and their slots",
    note(`${several(plan.users, "user")} of the validation part, lists of ${plan.size}. Recall with ` +
      `these slots ${figure(plan.expected_recall)}, with equal ones ` +
      `${figure(plan.equal_quotas_recall)}.`),
    make("table", { class: "figures-table" },
      make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...Object.entries(plan.channels).map(([name, channel]) =>
        make("tr", {}, make("th", { scope: "row" }, name),
          make("td", {}, count(channel.quota)),
          make("td", {}, figure(channel.recall_alone)),
          make("td", {}, count(channel.unique_hits)),
          make("td", { class: "time" }, `${figure(channel.microseconds)} µs`))))),
  );
}

function findings(found) {
  if (!found || found.length === 0) return null;
  return card("What the doctor found", make("ul", { class: "findings" },
    ...found.map(({ code, severity, mistake, evidence, cure }) =>
      make("li", {}, make("strong", {}, `${severity}: ${mistake}`),
        make("p", {}, `${evidence} (`, make("code", {}, code), ")"), make("p", {}, cure)))));
}

function refused(found) {
  if (!found || found.length === 0) return null;
  return card("Bundles that were refused",
    note("They were found in the directory, but cannot be served."),
    make("ul", { class: "findings" }, ...found.map(({ name, reason }) =>
      make("li", {}, make("strong", {}, name), make("p", {}, reason)))));
}
