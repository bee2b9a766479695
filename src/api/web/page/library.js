// The library: all face pictures, by label. They can be filtered, relabeled, discarded, and restored.

import { api } from "./api.js";
import { fill, h, redraw } from "./dom.js";
import "./upload.js";
import { CHANGED, labelName, labelsOf, markSamples, newLabelField, restoreSamples } from "./marking.js";
import { library, openSample, quality, thumbnail } from "./sample_panel.js";
import { known, number as written, percent, t, time, words } from "./texts.js";

/** Number of face pictures on a page, which fills the rows of most screens. */
const PAGE = 48;

const QUALITIES = ["good", "bad", "small", "blurred", "dark", "cut-off", "no-face"];

/** The filters that the address of the library can have. */
const FILTERS = ["label", "predicted", "quality", "day", "track", "suspect", "worst", "discarded"];

/** The filters that are behind the disclosure. */
const MORE = FILTERS.filter((name) => name !== "label" && name !== "discarded");

/** Reads the filter and the number of the page from the address. */
function fromAddress() {
  const given = new URLSearchParams(location.hash.split("?")[1] ?? "");
  const filter = Object.fromEntries(FILTERS.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
  return { filter, page: Math.max(0, Math.floor(Number(given.get("page")) || 0)) };
}

class LibraryView extends HTMLElement {
  connectedCallback() {
    Object.assign(this, fromAddress());
    this.selected = new Set();
    this.samples = [];
    this.heading = h("h2", {}, t("library.title"));
    this.tabs = h("nav", { class: "tabs", "aria-label": t("library.tabs") });
    this.status = h("p", { class: "hint", role: "status", id: "library-status" });
    this.grid = h("div", { onkeydown: (event) => this.move(event), onfocusin: (event) => this.rove(event.target) });
    this.pages = h("div", { class: "row pages" });
    this.bar = h("section", { class: "selection", "aria-label": t("library.selection") });
    this.form = h("div");
    const upload = h("details", { class: "card filters" }, h("summary", { id: "upload-open" }, t("upload.title")), h("upload-panel"));
    fill(this, this.heading, this.tabs, upload, this.form, this.status, this.grid, this.pages, this.bar);
    this.onChanged = () => this.load();
    window.addEventListener(CHANGED, this.onChanged);
    this.load();
  }

  disconnectedCallback() {
    window.removeEventListener(CHANGED, this.onChanged);
  }

  /** Shows other face pictures, and puts the filter into the address. */
  show(filter, page = 0) {
    this.filter = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
    this.page = page;
    this.selected.clear();
    const address = library({ ...this.filter, ...(page > 0 && { page }) });
    history.pushState(null, "", address.replace(/\?$/, ""));
    return this.load();
  }

  async load() {
    const query = { ...this.filter, order: "label", predictions: true, offset: this.page * PAGE, limit: PAGE };
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const [status, { total, samples }, discarded] = await Promise.all([api.status(), api.samples(query), api.samples({ discarded: true, limit: 0 })]);
      // A later request may already have been answered.
      if (!this.isConnected || turn !== this.turn) return;
      if (samples.length === 0 && total > 0) {
        // The last face pictures of this page are gone.
        this.page = Math.ceil(total / PAGE) - 1;
        return await this.load();
      }
      Object.assign(this, { samples, total, counts: status.samples, labels: labelsOf(status), discarded: discarded.total });
      const shown = new Set(samples.map((sample) => sample.id));
      this.selected = new Set([...this.selected].filter((id) => shown.has(id)));
      this.render();
    } catch (problem) {
      if (!this.isConnected || turn !== this.turn) return;
      Object.assign(this, { samples: [], total: 0 });
      this.selected.clear();
      fill(this.status);
      fill(this.grid, h("p", { class: "error", role: "alert" }, problem.shown), h("button", { type: "button", onclick: () => this.load() }, t("common.tryAgain")));
      fill(this.pages);
      fill(this.bar);
    }
  }

  render() {
    this.renderTabs();
    this.renderFilters();
    const first = this.page * PAGE;
    const key = this.total === 0 ? "library.noMatch" : this.total > this.samples.length ? "library.range" : "library.some";
    this.status.textContent = t(key, { first: first + 1, last: first + this.samples.length, number: this.total });
    this.renderGrid();
    this.renderPages();
    this.renderBar();
  }

  renderTabs() {
    const all = Object.values(this.counts).reduce((sum, { samples }) => sum + samples, 0);
    const counted = (label) => this.counts[label]?.samples ?? 0;
    const entries = [
      ["all", t("library.all"), all, {}],
      ["label-unlabelled", t("library.unlabeled"), counted("unlabelled"), { label: "unlabelled" }],
      ...this.labels.map((label) => [`label-${label}`, words(label), counted(label), { label }]),
      ["discarded", t("library.discarded"), this.discarded, { discarded: "true" }],
    ];
    const current = this.filter.discarded ? "discarded" : this.filter.label ? `label-${this.filter.label}` : "all";
    const rest = Object.fromEntries(MORE.filter((name) => this.filter[name]).map((name) => [name, this.filter[name]]));
    redraw(
      this.tabs,
      entries.map(([key, name, number, filter]) => {
        const wanted = { ...rest, ...filter };
        const open = (event) => {
          event.preventDefault();
          this.show(wanted);
        };
        return h("a", { id: `tab-${key}`, href: library(wanted), "aria-current": key === current ? "true" : null, onclick: open }, name, " ", h("span", { class: "number" }, written(number)));
      }),
    );
  }

  renderFilters() {
    const active = MORE.filter((name) => this.filter[name]).length;
    const change = (name, value) => this.show({ ...this.filter, [name]: value });
    const select = (name, label, options) =>
      h(
        "label",
        { class: "field" },
        label,
        h("select", { id: `filter-${name}`, onchange: (event) => change(name, event.target.value) }, h("option", { value: "" }, t("library.any")), options.map((value) => h("option", { value, selected: this.filter[name] === value }, known(`quality.${value}`, words(value))))),
      );
    const input = (name, label, attributes) =>
      h("label", { class: "field" }, label, h("input", { id: `filter-${name}`, value: this.filter[name] ?? "", onchange: (event) => event.target.reportValidity() && change(name, event.target.value), ...attributes }));
    const check = (name, label) => h("label", { class: "row" }, h("input", { id: `filter-${name}`, type: "checkbox", checked: Boolean(this.filter[name]), onchange: (event) => change(name, event.target.checked && "true") }), label);
    const wasOpen = this.form.querySelector("details")?.open;
    redraw(
      this.form,
      h(
        "details",
        { class: "card filters", open: wasOpen ?? active > 0 },
        h("summary", { id: "filters" }, active > 0 ? t("library.filtersActive", { number: active }) : t("library.filters")),
        h(
          "div",
          { class: "fields" },
          select("predicted", t("library.modelSays"), this.labels),
          select("quality", t("library.quality"), QUALITIES),
          input("day", t("library.day"), { type: "date" }),
          input("track", t("library.track"), { type: "number", min: 0, step: 1, inputmode: "numeric" }),
          check("suspect", t("library.suspect")),
          check("worst", t("library.worst")),
        ),
        active > 0 && h("button", { type: "button", class: "quiet", id: "filters-clear", onclick: () => this.show({ label: this.filter.label, discarded: this.filter.discarded }) }, t("library.clearFilters")),
      ),
    );
  }

  renderGrid() {
    const focused = this.grid.contains(document.activeElement) ? document.activeElement : null;
    const focusedAt = focused ? this.thumbnails().findIndex((one) => one.parentElement.contains(focused)) : -1;
    const ids = this.samples.map((sample) => sample.id);
    const groups = new Map();
    for (const sample of this.samples) groups.set(sample.label, [...(groups.get(sample.label) ?? []), sample]);
    fill(
      this.grid,
      [...groups].map(([label, samples]) => [
        this.filter.label === undefined && h("h3", { class: "class" }, label === undefined ? t("library.unlabeled") : words(label)),
        h("ul", { class: "gallery", "aria-label": label === undefined ? t("library.unlabeled") : words(label) }, samples.map((sample) => this.cell(sample, ids))),
      ]),
      this.samples.length > 0 && h("p", { class: "hint" }, t("library.keyboard")),
    );
    const all = this.thumbnails();
    if (all.length === 0) {
      if (focused) document.getElementById("main").focus();
      return;
    }
    const at = Math.min(Math.max(focusedAt, 0), all.length - 1);
    all[at].tabIndex = 0;
    if (focused) all[at].focus({ preventScroll: true });
  }

  cell(sample, ids) {
    const label = sample.label === undefined ? t("library.notLabeled") : t("library.labeled", { label: words(sample.label) });
    const differs = sample.predicted !== undefined && sample.predicted !== sample.label;
    const notes = [
      sample.suspect && h("span", { class: "note bad" }, t("library.noteSuspect")),
      sample.worst && h("span", { class: "note" }, t("library.noteWorst")),
      sample.flaws && h("span", { class: "note" }, quality(sample)),
      differs && h("span", { class: "note" }, t("library.noteModel", { label: words(sample.predicted), percent: percent(sample.probability, 0) })),
    ];
    return h(
      "li",
      { class: "cell" },
      sample.picture
        ? thumbnail(sample.id, ids, t("library.picture", { label, time: time(sample.time) }), { tabindex: -1, onclick: (event) => this.click(event, sample.id) })
        : h("button", { type: "button", class: "thumbnail none", "data-sample": sample.id, tabindex: -1, onclick: (event) => this.click(event, sample.id) }, t("library.noPicture")),
      h(
        "label",
        { class: "caption" },
        // The keyboard selects with Space on the picture, so that Tab leaves the grid.
        h("input", { type: "checkbox", tabindex: -1, checked: this.selected.has(sample.id), "aria-label": t("library.select", { time: time(sample.time) }), onclick: (event) => this.check(event, sample.id) }),
        h("span", {}, time(sample.time, true), notes),
      ),
    );
  }

  renderPages() {
    const last = Math.ceil(this.total / PAGE) - 1;
    const button = (id, name, page) =>
      h("button", { type: "button", class: "quiet", id, "aria-disabled": String(page < 0 || page > last), onclick: () => page >= 0 && page <= last && this.turnTo(page) }, name);
    redraw(this.pages, last > 0 && [button("page-previous", t("library.previous"), this.page - 1), h("span", {}, t("library.page", { page: this.page + 1, pages: last + 1 })), button("page-next", t("library.next"), this.page + 1)]);
  }

  async turnTo(page) {
    await this.show(this.filter, page);
    this.scrollIntoView();
  }

  renderBar() {
    const number = this.selected.size;
    const act = (id, name, action, kind = "quiet") => h("button", { type: "button", class: kind, id, onclick: () => this.act(action) }, name);
    this.newLabel = newLabelField("library-new-label", this.newLabel);
    const others = this.filter.discarded
      ? act("library-restore", t("mark.restore"), (ids) => restoreSamples(ids))
      : [
          h(
            "span",
            { class: "row", role: "group", "aria-label": t("library.moveTo") },
            this.labels.map((label) => act(`library-label-${label}`, words(label), (ids) => markSamples(ids, { as: label }))),
            act("library-no-label", t("label.none"), (ids) => markSamples(ids, "unlabelled")),
          ),
          h(
            "form",
            {
              class: "row",
              onsubmit: (event) => {
                event.preventDefault();
                const name = labelName(this.newLabel.value);
                if (name) this.act((ids) => markSamples(ids, { as: name }).then((accepted) => accepted && (this.newLabel.value = "")));
              },
            },
            this.newLabel,
            h("button", { class: "quiet", id: "library-use" }, t("mark.use")),
          ),
          act("library-discard", t("mark.discard"), (ids) => markSamples(ids, "discard"), "quiet danger"),
        ];
    redraw(
      this.bar,
      this.samples.length > 0 && [
        h("strong", { role: "status" }, number === 0 ? t("library.nothingSelected") : t("library.selected", { number })),
        h("button", { type: "button", class: "quiet", id: "select-all", onclick: () => this.select(this.samples.map((sample) => sample.id)) }, t("library.selectAll")),
        number > 0 && h("button", { type: "button", class: "quiet", id: "select-none", onclick: () => this.select([]) }, t("library.clear")),
        number > 0 && others,
      ],
    );
  }

  /** Applies an action to the selected face pictures. */
  act(action) {
    return action([...this.selected]);
  }

  select(ids) {
    this.selected = new Set(ids);
    for (const box of this.grid.querySelectorAll("input[type=checkbox]")) box.checked = this.selected.has(idOf(box));
    this.renderBar();
  }

  toggle(id) {
    const selected = new Set(this.selected);
    if (!selected.delete(id)) selected.add(id);
    this.anchor = id;
    this.select(selected);
  }

  /** Selects everything between the last selected face picture and this one. */
  selectTo(id) {
    const ids = this.samples.map((sample) => sample.id);
    const ends = [Math.max(0, ids.indexOf(this.anchor ?? id)), ids.indexOf(id)].sort((a, b) => a - b);
    this.select([...this.selected, ...ids.slice(ends[0], ends[1] + 1)]);
  }

  click(event, id) {
    if (event.shiftKey) this.selectTo(id);
    else if (event.ctrlKey || event.metaKey) this.toggle(id);
    else openSample(id, this.samples.map((sample) => sample.id));
  }

  check(event, id) {
    if (!event.shiftKey) return this.toggle(id);
    // The browser would otherwise undo the change of the box after this handler.
    event.preventDefault();
    setTimeout(() => this.selectTo(id));
  }

  thumbnails() {
    return [...this.grid.querySelectorAll(".thumbnail")];
  }

  /** Makes the focused face picture the only one that Tab reaches. */
  rove(target) {
    if (!target.matches(".thumbnail")) return;
    for (const one of this.thumbnails()) one.tabIndex = one === target ? 0 : -1;
  }

  move(event) {
    if (!event.target.matches(".thumbnail") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === " ") {
      event.preventDefault();
      this.toggle(event.target.dataset.sample);
      return;
    }
    const all = this.thumbnails();
    const next = target(all, all.indexOf(event.target), event.key);
    if (next === undefined) return;
    event.preventDefault();
    next.focus();
    if (!event.shiftKey) return;
    this.anchor ??= event.target.dataset.sample;
    this.selectTo(next.dataset.sample);
  }
}

/** Returns the id of the sample of a checkbox. */
const idOf = (box) => box.closest(".cell").querySelector(".thumbnail").dataset.sample;

/** Returns the element that a key moves to, or undefined for other keys. */
function target(all, at, key) {
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[key];
  if (to !== undefined) return all[Math.min(Math.max(to, 0), all.length - 1)];
  if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
  // The nearest element of the nearest row above or below.
  const here = all[at].getBoundingClientRect();
  const sign = key === "ArrowUp" ? -1 : 1;
  const distances = all.map((one) => {
    const box = one.getBoundingClientRect();
    const [down, across] = [sign * (box.top - here.top), Math.abs(box.left - here.left)];
    return { one, down, across };
  });
  const beyond = distances.filter(({ down }) => down > here.height / 2);
  const row = Math.min(...beyond.map(({ down }) => down));
  const nearest = beyond.filter(({ down }) => down < row + 1).sort((a, b) => a.across - b.across)[0];
  return (nearest ?? { one: all[at] }).one;
}

customElements.define("library-view", LibraryView);
