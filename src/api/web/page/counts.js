// The counts: how many people passed with and without a mask, by hour or day.

import { api, countsFile } from "./api.js";
import { device, fill, h, s, scrollable, whileVisible } from "./dom.js";
import { day as written, number, rich, t } from "./texts.js";

/** How often the view asks for new counts, in ms. */
const INTERVAL = 30000;

const OUTCOMES = ["masked", "unmasked", "unsure"];
const WIDTH = 480;
const HEIGHT = 160;
const LEFT = 34;
const BOTTOM = 22;
const DAYS = 30;
/** The status of the response while nobody is counted. */
const CONFLICT = 409;

const two = (number) => String(number).padStart(2, "0");
const dateOf = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

/** Returns the date that is `days` days after a date such as 2026-11-30. */
function after(text, days) {
  const [year, month, day] = text.split("-").map(Number);
  return dateOf(new Date(year, month - 1, day + days));
}

/** Returns a row without passages. */
const none = (name) => ({ name, short: name.includes(":") ? name : written(name, true), masked: 0, unmasked: 0, unsure: 0 });

/** Draws a bar for each slot, in which the outcomes are stacked. */
function bars(slots, title) {
  const sums = slots.map((slot) => OUTCOMES.reduce((sum, outcome) => sum + slot[outcome], 0));
  const max = Math.max(1, ...sums);
  const bottom = HEIGHT - BOTTOM;
  const step = (WIDTH - LEFT) / slots.length;
  const height = (number) => (number / max) * (bottom - 10);
  const parts = slots.flatMap((slot, at) => {
    let y = bottom;
    return OUTCOMES.map((outcome) => {
      y -= height(slot[outcome]);
      return slot[outcome] > 0 && s("rect", { class: outcome, x: LEFT + at * step + step * 0.1, y, width: step * 0.8, height: height(slot[outcome]) });
    });
  });
  const every = Math.ceil(slots.length / 6);
  const names = slots.map((slot, at) => at % every === 0 && s("text", { class: "tick", x: LEFT + at * step, y: HEIGHT - 6 }, slot.short));
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot bars", role: "img", "aria-label": t("counts.barsTitle", { sum: title }) },
    s("path", { class: "axis", d: `M${LEFT} 6V${bottom}H${WIDTH}` }),
    s("text", { class: "tick end", x: LEFT - 5, y: 16 }, number(max)),
    s("text", { class: "tick end", x: LEFT - 5, y: bottom }, "0"),
    parts,
    names,
  );
}

const cells = (row) => OUTCOMES.map((outcome) => h("td", { class: "number" }, number(row[outcome])));

function table(rows, total, by) {
  const unit = t(by === "hour" ? "counts.hour" : "counts.dayColumn");
  const caption = t(by === "hour" ? "counts.captionHour" : "counts.captionDay");
  return scrollable(
    caption,
    h(
      "table",
      { class: "counts" },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, unit), OUTCOMES.map((outcome) => h("th", { scope: "col", class: "number" }, h("span", { class: `key ${outcome}`, "aria-hidden": "true" }), t(`counts.${outcome}`))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.shown), cells(row)))),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, t("counts.total")), cells(total))),
    ),
  );
}

class CountsView extends HTMLElement {
  connectedCallback() {
    this.by = "hour";
    this.date = h("input", { type: "date", id: "counts-date", value: dateOf(new Date()), max: dateOf(new Date()), onchange: () => this.load() });
    this.buttons = { hour: this.choice("hour", t("counts.byHour")), day: this.choice("day", t("counts.byDay", { number: DAYS })) };
    this.error = h("p", { class: "error", role: "alert" });
    this.status = h("p", { class: "hint", role: "status" });
    this.content = h("div");
    this.file = h("a", { class: "button quiet", download: "counts.csv" }, t("counts.save"));
    this.controls = h(
      "div",
      { class: "row" },
      h("label", { for: "counts-date" }, t("counts.day")),
      h("div", {}, this.date),
      h("div", { class: "row", role: "group", "aria-label": t("counts.period") }, Object.values(this.buttons)),
    );
    fill(
      this,
      h("h2", {}, t("counts.title")),
      this.controls,
      this.error,
      this.status,
      this.content,
      this.file,
    );
    this.end = whileVisible(() => this.load(), INTERVAL);
  }

  disconnectedCallback() {
    this.end();
  }

  choice(by, text) {
    const choose = () => {
      this.by = by;
      return this.load();
    };
    return h("button", { type: "button", class: "quiet", id: `counts-${by}`, onclick: choose }, text);
  }

  /** Returns the hours or days that the bars show, in which nobody has passed yet. */
  slots(date) {
    const slots = this.by === "hour" ? Array.from({ length: 24 }, (_, hour) => `${two(hour)}:00`) : Array.from({ length: DAYS }, (_, day) => after(date, day + 1 - DAYS));
    return slots.map(none);
  }

  async load() {
    for (const [by, button] of Object.entries(this.buttons)) button.setAttribute("aria-pressed", String(by === this.by));
    const date = this.date.value || dateOf(new Date());
    const query = { from: this.by === "hour" ? date : after(date, 1 - DAYS), to: date, by: this.by };
    this.file.setAttribute("href", countsFile(query));
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const record = await api.counts(query);
      if (turn === this.turn) this.show(record, date);
    } catch (problem) {
      if (turn !== this.turn) return;
      // Counting is off until the owner turns it on, which is no error.
      const isOff = problem.status === CONFLICT;
      this.file.hidden = true;
      this.controls.hidden = isOff;
      fill(this.error, isOff ? null : problem.shown);
      fill(this.content, isOff && h("p", {}, rich("counts.off", { key: h("code", {}, "counts.enabled = true"), file: h("code", {}, "maskd.toml") })));
      fill(this.status);
    }
  }

  show(record, date) {
    const rows = record.rows.map((row) => {
      const name = this.by === "hour" ? row.start.slice(11, 16) : row.start;
      return { ...row, name, shown: this.by === "hour" ? name : written(name) };
    });
    const slots = this.slots(date);
    for (const row of rows) {
      // When summer time ends, two rows have the same hour on the clock.
      const slot = slots.find((one) => one.name === row.name);
      if (slot) for (const outcome of OUTCOMES) slot[outcome] += row[outcome];
    }
    const { masked, unmasked, unsure } = record.total;
    const isEmpty = masked + unmasked + unsure === 0;
    const sum = isEmpty
      ? t(this.by === "hour" ? "counts.noneOnDay" : "counts.noneInDays", { number: DAYS, date: written(date) })
      : t(this.by === "hour" ? "counts.onDay" : "counts.inDays", { number: DAYS, date: written(date), masked, unmasked, unsure });
    this.file.hidden = this.controls.hidden = false;
    fill(this.error);
    fill(this.status, sum, record.rounding && [" ", rich("counts.statistics", { rounding: device(record.rounding) })]);
    fill(this.content, !isEmpty && [bars(slots, sum), table(rows, record.total, this.by)]);
  }
}

customElements.define("counts-view", CountsView);
