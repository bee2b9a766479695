// Training on this device: shows the models, how they compare, and what to do next.

import { api, fileOfHead } from "./api.js";
import { confusion, line, score } from "./charts.js";
import { clause, confirmed, device, figures, fill, h, redraw, sentence, toast, whileVisible } from "./dom.js";
import { CHANGED } from "./marking.js";
import { library, strip } from "./sample_panel.js";
import { known, list, number, percent, rich, t, time, words } from "./texts.js";

/** Returns a sentence that says what to capture and label next, with a link to the face pictures. */
function advice(entry) {
  const [kind, about] = Object.entries(entry)[0];
  const filter = { "more-tracks": { label: "unlabelled" }, "check-labels": { suspect: true } }[kind] ?? { label: about.label };
  const label = kind === "more-tracks" ? labeled(about.label) : about.label && words(about.label);
  const { groups, wanted, wrong, samples } = about;
  if (known(`advice.${kind}`) === undefined) return device(kind);
  const text = t(`advice.${kind}.link`, { label, number: about.suspects });
  const link = h("a", { id: `advice-${kind}-${about.label ?? ""}`, href: library(filter) }, text);
  return rich(`advice.${kind}`, { link, groups, wanted, wrong, samples });
}

/** Returns the words that follow "people" for a label. */
const labeled = (label) => known(`training.${label}`, t("training.labeled", { label: words(label) }));

/** Says how many people are labeled so far, and how many help. */
function progress(records) {
  const parts = records.map(({ label, tracks, wanted }) => t(tracks < wanted ? "training.peopleOf" : "training.people", { number: tracks, wanted, label: labeled(label) }));
  const present = records.filter((record) => record.tracks > 0);
  const days = new Set(present.map((record) => record.only_day));
  if (days.size === 1 && !days.has(undefined)) parts.push(t("training.allOneDay"));
  else if (days.size > 0 && !days.has(undefined)) parts.push(t("training.eachOneDay"));
  else parts.push(...present.filter((record) => record.only_day !== undefined).map((record) => t("training.thoseOneDay", { label: labeled(record.label) })));
  return list(parts);
}

/** Returns a phrase that says which part of the model was trained. */
const trained = (adaptation) => known(`adaptation.${adaptation}`, t("common.unknown"));

/** Returns a phrase that says why a model came into use. */
function cause(entry) {
  const cause = entry.cause === "fallback" && entry.note ? device(entry.note) : known(`cause.${entry.cause}`, entry.cause);
  const channel = entry.channel ? `channel.${entry.channel}` : entry.cause === "refit" ? "channel.automatic" : undefined;
  return channel && known(channel) !== undefined ? rich(channel, { cause }) : [cause];
}

const nameOf = (model) => (model === 0 ? t("model.builtIn") : t("model.number", { model }));

const inUse = (model) => (model === undefined || model === 0 ? t("training.builtInInUse") : t("training.inUse", { model }));

/** Returns the reason for a decision as a sentence. */
const reason = (outcome) => sentence(clause(outcome.reason, outcome.reason_code));

/** Returns the warnings about a training as sentences. */
function warnings({ warning, warning_codes: codes = [] }) {
  const isKnown = codes.length > 0 && codes.every(({ code }) => known(`warning.${code}`) !== undefined);
  const clauses = isKnown ? codes.map((code) => clause(warning, code, `warning.${code.code}`)) : [device(warning)];
  return clauses.map((one) => h("p", { class: "hint" }, sentence(one)));
}

class LearningView extends HTMLElement {
  connectedCallback() {
    this.opened = new Set();
    fill(this, h("p", {}, t("page.loading")));
    this.end = whileVisible(() => this.look(), 2000);
    this.onChanged = () => this.look();
    window.addEventListener(CHANGED, this.onChanged);
  }

  disconnectedCallback() {
    this.end();
    window.removeEventListener(CHANGED, this.onChanged);
  }

  async look() {
    try {
      const [status, heads, history] = await Promise.all([api.status(), api.heads(), api.history()]);
      const state = JSON.stringify([history.length, history.at(-1), status.samples, status.progress, status.new_labels, status.last_refit, status.live.refitting, status.live.learning_waits, status.live.head, heads]);
      // The page redraws only after a change, so that nothing moves under the user's finger.
      if (state !== this.shownState) {
        this.shownState = state;
        this.render(status, heads, history);
      }
      this.showProgress(status.live);
    } catch (problem) {
      this.shownState = null;
      fill(this, h("p", { class: "error", role: "alert" }, problem.shown));
    }
  }

  render(status, heads, history) {
    const { live, last_refit: last } = status;
    const samples = Object.entries(status.samples);
    const hasLabels = samples.some(([label, counted]) => label !== "unlabelled" && counted.samples > 0);
    const outcome = last?.outcome;
    // The sentence about the progress already says what these say.
    const next = (outcome?.advice ?? []).filter((entry) => status.progress.length === 0 || !("more-tracks" in entry || "another-day" in entry));
    redraw(
      this,
      h("h2", {}, t("training.title")),
      h(
        "section",
        { class: "card", "aria-label": t("training.now") },
        samples.length === 0
          ? h("p", {}, t("training.noPictures"))
          : figures([
              [t("training.pictures"), list(samples.map(([label, counted]) => t("training.counted", { number: counted.samples, label: words(label) })))],
              status.progress.length > 0 && [t("training.labeledPeople"), progress(status.progress)],
              [t("training.newLabels"), t("training.sinceLast", { number: status.new_labels })],
            ]),
        h("p", { role: "status" }, live.refitting ? t("training.running") : live.learning_waits ? rich("training.pausedBecause", { reason: clause(live.learning_waits, live.learning_waits_code) }) : null),
        h("progress", { id: "training-progress", max: 1, hidden: !live.refitting, "aria-label": t("training.running") }),
        h("p", { class: "hint", id: "training-steps" }),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: "refit", disabled: live.refitting || !hasLabels, onclick: () => this.refit() }, t("training.start")),
          h("button", { type: "button", id: "rollback", class: "quiet", disabled: live.head === undefined, onclick: () => this.rollback() }, t("training.rollback")),
        ),
        h(
          "label",
          { class: "row hint" },
          h("input", { type: "checkbox", id: "labels-checked", checked: this.labelsChecked === true, onchange: (event) => (this.labelsChecked = event.target.checked) }),
          t("training.checked"),
        ),
      ),
      outcome && this.result(last),
      next.length > 0 &&
        h("section", { class: "card", "aria-label": t("training.whatNext") }, h("h3", {}, t("training.whatNext")), h("ul", {}, next.map((entry) => h("li", {}, advice(entry))))),
      h("h2", {}, t("training.models")),
      heads.length === 1 && !last && h("p", { class: "hint" }, t("training.onlyBuiltIn")),
      this.accuracyPlot(heads),
      [...heads].reverse().map((head) => this.head(head)),
      this.history(history),
    );
  }

  /** Shows how far the training is. Only a training that is not the first one has an end in sight. */
  showProgress({ refitting, refit_progress: progress }) {
    const [bar, text] = [this.querySelector("#training-progress"), this.querySelector("#training-steps")];
    bar.hidden = !refitting;
    if (!refitting || !progress) return fill(text);
    const { seconds, steps, last_steps: last } = progress;
    if (last) Object.assign(bar, { max: last, value: Math.min(steps, 0.98 * last) });
    else bar.removeAttribute("value");
    return fill(text, t(last ? "training.stepsOf" : "training.stepsSoFar", { number: seconds, steps, last }));
  }

  /** Says what distinguishes a trained model from the one before. */
  changes({ outcome, labels }) {
    const { measured, counts, learned } = outcome;
    const rows = [[t("model.learned"), t("model.learnedFrom", { number: learned.length, labels: list(outcome.labels.map((label, at) => t("training.counted", { number: counts[at]?.samples ?? 0, label: words(label) }))) })]];
    if (labels.length > outcome.labels.length) rows.push([t("panel.label"), list(labels.map(words))]);
    if (measured) {
      const { before, after } = measured;
      rows.push([t("training.trained"), trained(measured.adaptation)]);
      rows.push([t("model.accuracy"), t("model.fromTo", { before: percent(before.accuracy), after: percent(after.accuracy), number: after.samples })]);
      const mistakes = [before.samples - before.right, after.samples - after.right];
      rows.push([t("model.mistakes"), t("model.fromToMistakes", { before: mistakes[0], number: mistakes[1] })]);
      if (measured.replay_before !== undefined) rows.push([t("model.others"), t("model.fromToOthers", { before: percent(measured.replay_before), after: percent(measured.replay_after) })]);
    }
    return [h("h3", {}, t("model.changed")), figures(rows)];
  }

  /** Shows which model came into use when, newest first. */
  history(history) {
    if (history.length === 0) return null;
    const at = (entry) => (entry.clock_synchronized ? time(entry.time) : t("history.notSynchronized", { time: time(entry.time) }));
    const text = (entry) => rich(entry.head === 0 ? "history.builtIn" : "history.model", { model: entry.head, cause: h("span", {}, cause(entry)) });
    return this.details(
      "history",
      t("history.title"),
      h("ol", { reversed: true, class: "history" }, [...history].reverse().map((entry) => h("li", { value: entry.sequence }, text(entry), " ", h("span", { class: "hint" }, at(entry))))),
    );
  }

  /** Creates a disclosure that stays open or closed when the page redraws. */
  details(key, title, ...content) {
    return h(
      "details",
      { id: key, open: this.opened.has(key), ontoggle: (event) => (event.target.open ? this.opened.add(key) : this.opened.delete(key)) },
      h("summary", { id: `${key}-summary` }, title),
      ...content,
    );
  }

  result(last) {
    const { outcome } = last;
    const [mark, title] =
      outcome.ruling === "accepted"
        ? ["good", t("training.accepted", { model: last.head })]
        : outcome.ruling === "nothing-to-gain"
          ? ["", t("training.nothingToGain")]
          : ["bad", t("training.refused")];
    return h(
      "section",
      { class: `card ${mark}`, "aria-label": t("training.last") },
      h("h3", {}, title),
      outcome.reason && h("p", {}, reason(outcome)),
      this.remarks(outcome, "last"),
      this.measured(outcome, "last"),
    );
  }

  /** Shows what the owner should know, regardless of the decision. */
  remarks(outcome, key) {
    return [
      outcome.labels_checked && h("p", { class: "hint" }, t("training.vouched")),
      outcome.warning && warnings(outcome),
      outcome.measured && this.facePictures("training.toCheck", outcome.measured.suspects, outcome.labels, `suspects-${key}`),
    ];
  }

  /** Shows the figures, behind a disclosure. */
  measured({ measured, labels }, key) {
    if (!measured) return null;
    const model = key === "last" ? t("training.last") : t("model.number", { model: key });
    const matrix = ({ confusion: rows }, caption, address) => confusion(labels, rows, { caption, name: `${model}: ${caption}`, address });
    return this.details(
      `details-${key}`,
      t("training.detailsTitle"),
      figures([
        [t("training.before"), score(measured.before)],
        [t("training.after"), score(measured.after)],
        [t("training.loss"), t(measured.gain < 0 ? "training.lossHigher" : "training.lossLower", { loss: number(Math.abs(measured.gain), 3), error: number(measured.standard_error, 3) })],
        [t("training.trained"), trained(measured.adaptation)],
      ]),
      h(
        "div",
        { class: "split" },
        measured.curve.length > 1 &&
          h("figure", {}, line({ points: measured.curve.map((point) => [point.steps, point.loss]), title: t("training.curveTitle"), x: t("training.steps"), y: t("training.lossAxis"), chosen: measured.steps }), h("figcaption", {}, t("training.curveCaption"))),
        h("div", {}, matrix(measured.before, t("training.before")), matrix(measured.after, t("training.after"), library), h("p", { class: "hint" }, t("training.cells"))),
      ),
      this.facePictures("training.worst", measured.worst, labels, `worst-${key}`),
    );
  }

  facePictures(title, samples, labels, key) {
    if (samples.length === 0) return null;
    const items = samples.map((sample) => {
      const label = words(labels[sample.label] ?? "?");
      return { id: sample.id, name: t("training.labeledThen", { label }), caption: [h("span", {}, label), h("span", { class: "hint" }, t("training.probability", { percent: percent(sample.probability, 0) }))] };
    });
    return this.details(key, t(title, { number: samples.length }), strip(items));
  }

  /** Plots the accuracy of the models over time. */
  accuracyPlot(heads) {
    const measured = heads.filter((head) => head.outcome?.measured);
    if (measured.length < 2) return null;
    const points = measured.map((head) => [head.number, head.outcome.measured.after.accuracy]);
    return h("figure", { class: "card" }, line({ points, title: t("training.accuracyTitle"), x: t("training.modelAxis"), y: t("training.accuracyAxis"), chosen: heads.find((head) => head.current)?.number, format: (value) => percent(value, 0) }), h("figcaption", {}, t("training.accuracyCaption")));
  }

  head(head) {
    const measured = head.outcome?.measured;
    const builtIn = head.number === 0;
    const key = `head-${head.number}`;
    return h(
      "details",
      { class: "card head", id: key, open: this.opened.has(key), ontoggle: (event) => (event.target.open ? this.opened.add(key) : this.opened.delete(key)) },
      h(
        "summary",
        { id: `${key}-summary` },
        h("strong", {}, nameOf(head.number)),
        head.current && h("span", { class: "badge" }, t("model.inUse")),
        " ",
        builtIn ? null : head.damage ? device(head.damage) : measured ? t("model.right", { right: measured.after.right, samples: measured.after.samples, before: measured.before.right }) : device(head.recipe),
      ),
      h("p", { class: "hint" }, t(builtIn ? "model.builtInAbout" : head.parent === undefined ? "model.fromBuiltIn" : "model.fromModel", { model: head.parent, labels: list(head.labels.map(words)) })),
      head.outcome && [this.changes(head), head.outcome.reason && h("p", {}, reason(head.outcome)), this.remarks(head.outcome, head.number), this.measured(head.outcome, head.number)],
      !head.damage &&
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: `use-${head.number}`, class: "quiet", disabled: head.current, onclick: () => this.use(head.number) }, t("model.use")),
          h("a", { class: "button quiet", href: fileOfHead(head.number), download: `model-${head.number}.onnx` }, t("model.export")),
        ),
    );
  }

  async refit() {
    // The owner vouches for the labels of one training, so the checkbox is cleared at once.
    const box = document.getElementById("labels-checked");
    const checked = box.checked;
    box.checked = false;
    this.labelsChecked = false;
    toast(t("training.started"));
    setTimeout(() => this.look(), 200);
    try {
      const record = await api.refit(checked);
      toast(record.head === undefined ? t("training.unchanged") : inUse(record.head));
    } catch (problem) {
      toast(problem.shown);
    }
    this.look();
  }

  async rollback() {
    if (await confirmed(t("training.rollbackQuestion"), t("training.rollback"))) await this.change(() => api.rollback());
  }

  async use(model) {
    const question = model === 0 ? t("training.useBuiltInQuestion") : t("training.useQuestion", { model });
    if (await confirmed(question, t("training.useIt"))) await this.change(() => api.use(model));
  }

  /** Changes the model in use, and says which one is then in use. */
  async change(request) {
    try {
      const { head } = await request();
      toast(inUse(head));
    } catch (problem) {
      toast(problem.shown);
    }
    this.look();
  }
}

customElements.define("learning-view", LearningView);
