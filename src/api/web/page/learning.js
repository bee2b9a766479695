// Training on this device: shows the models, how they compare, and what to do next.

import { api, fileOfHead } from "./api.js";
import { confusion, line, score } from "./charts.js";
import { confirmed, count, fill, h, percent, redraw, toast, whileVisible, words } from "./dom.js";
import { CHANGED } from "./marking.js";
import { library, strip } from "./sample_panel.js";

/** Returns a sentence that says what to capture and label next, with a link to the face pictures. */
function advice(entry) {
  const [kind, about] = Object.entries(entry)[0];
  const label = about.label && words(about.label);
  const link = (filter, text) => h("a", { id: `advice-${kind}-${about.label ?? ""}`, href: library(filter) }, text);
  switch (kind) {
    case "more-tracks":
      return [link({ label: "unlabelled" }, `Label pictures of more people ${label}`), `: there are ${about.groups} so far, and ${about.wanted} would give a clearer result.`];
    case "another-day":
      return [link({ label: about.label }, `All pictures labeled ${label}`), " are from one day: add some from another day or in different light."];
    case "more-of":
      return [link({ label: about.label }, `Pictures labeled ${label}`), ` are misclassified most often (${about.wrong} of ${about.samples}): label more of them.`];
    case "check-labels":
      return ["Check the ", link({ suspect: true }, `${count(about.suspects, "picture")} whose label may be wrong`), "."];
    default:
      return kind;
  }
}

/** Returns the words that follow "people" for a label. */
function labeled(label) {
  return { with_mask: "with a mask", without_mask: "without a mask" }[label] ?? `labeled ${words(label)}`;
}

/** Returns a sentence that says how many people are labeled so far, and how many help. */
function progress(records) {
  if (records.length === 0) return "";
  const parts = records.map(({ label, tracks, wanted }, number) => `${tracks}${tracks < wanted ? ` of ${wanted}` : ""}${number === 0 ? " people" : ""} ${labeled(label)}`);
  const present = records.filter((record) => record.tracks > 0);
  const days = new Set(present.map((record) => record.only_day));
  if (days.size === 1 && !days.has(undefined)) parts.push("all on one day");
  else if (days.size > 0 && !days.has(undefined)) parts.push("each on one day only");
  else parts.push(...present.filter((record) => record.only_day !== undefined).map((record) => `those ${labeled(record.label)} on one day only`));
  return `Labeled so far: ${parts.join(", ")}. `;
}

/** Returns a phrase that says which part of the model was trained. */
function trained(adaptation) {
  const parts = {
    "plain-replay": "both layers, with the face pictures of this device",
    logits: "only the scale and the threshold of the output",
    "translated-replay": "both layers, mostly with built-in samples fitted to this camera",
    "new-classes": "only the labels that the built-in model lacks",
  };
  return parts[adaptation] ?? "unknown";
}

/** Returns a phrase that says why a model came into use. */
function cause(entry) {
  const causes = {
    refit: "trained on this device",
    import: "imported",
    fleet: "offered by another device",
    rollback: "rolled back",
    use: "chosen",
    fallback: entry.note ?? "used in place of a model that cannot be used",
    found: "found in use, for an unknown reason",
  };
  const channels = { "command-line": ", requested on the command line", page: ", requested on the page", mqtt: ", requested over MQTT" };
  const automatic = entry.cause === "refit" ? ", started automatically" : "";
  return (causes[entry.cause] ?? entry.cause) + (channels[entry.channel] ?? automatic);
}

const named = (number) => (number === 0 ? "the built-in model" : `model ${number}`);

const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);

class LearningView extends HTMLElement {
  connectedCallback() {
    this.opened = new Set();
    fill(this, h("p", {}, "Loading…"));
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
    } catch (problem) {
      this.shownState = null;
      fill(this, h("p", { class: "error", role: "alert" }, problem.message));
    }
  }

  render(status, heads, history) {
    const { live, last_refit: last } = status;
    const samples = Object.entries(status.samples);
    const outcome = last?.outcome;
    // The sentence about the progress already says what these say.
    const next = (outcome?.advice ?? []).filter((entry) => status.progress.length === 0 || !("more-tracks" in entry || "another-day" in entry));
    redraw(
      this,
      h("h2", {}, "Training on this device"),
      h(
        "section",
        { class: "card", "aria-label": "Now" },
        h(
          "p",
          {},
          samples.length === 0 ? "There are no face pictures yet. " : samples.map(([label, counted]) => `${counted.samples} ${label === "unlabelled" ? "unlabeled" : words(label)}`).join(", ") + ". ",
          progress(status.progress),
          `${count(status.new_labels, "new label")} since the last training.`,
        ),
        h("p", { role: "status" }, live.refitting ? "Training…" : live.learning_waits ? `Training is paused: ${live.learning_waits}.` : ""),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: "refit", disabled: live.refitting, onclick: () => this.refit() }, "Train now"),
          h("button", { type: "button", id: "rollback", class: "quiet", disabled: live.head === undefined, onclick: () => this.rollback() }, "Roll back"),
        ),
        h(
          "label",
          { class: "row hint" },
          h("input", { type: "checkbox", id: "labels-checked", checked: this.labelsChecked === true, onchange: (event) => (this.labelsChecked = event.target.checked) }),
          "I have checked every label. If labels look wrong, only warn me.",
        ),
      ),
      outcome && this.result(last),
      next.length > 0 &&
        h("section", { class: "card", "aria-label": "What to do next" }, h("h3", {}, "What to do next"), h("ul", {}, next.map((entry) => h("li", {}, advice(entry))))),
      h("h2", {}, "Models"),
      heads.length === 1 && h("p", { class: "hint" }, "The built-in model is in use. To train one for this camera, label some face pictures of each kind, then choose Train now."),
      this.accuracyPlot(heads),
      [...heads].reverse().map((head) => this.head(head)),
      this.history(history),
    );
  }

  /** Shows which model came into use when, newest first. */
  history(history) {
    if (history.length === 0) return null;
    const time = (entry) => entry.time.replace("T", " ").replace("Z", " UTC") + (entry.clock_synchronized ? "" : ", clock not synchronized");
    return this.details(
      "history",
      "Which model came into use when",
      h("ol", { reversed: true, class: "history" }, [...history].reverse().map((entry) => h("li", { value: entry.sequence }, `${capitalized(named(entry.head))}: ${cause(entry)}. `, h("span", { class: "hint" }, time(entry))))),
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
        ? ["good", `The last training produced model ${last.head}`]
        : outcome.ruling === "nothing-to-gain"
          ? ["", "There was nothing to gain from the last training"]
          : ["bad", "The last training changed nothing"];
    return h(
      "section",
      { class: `card ${mark}`, "aria-label": "The last training" },
      h("h3", {}, title),
      outcome.reason && h("p", {}, `${capitalized(outcome.reason)}.`),
      this.remarks(outcome, "last"),
      this.measured(outcome, "last"),
    );
  }

  /** Shows what the owner should know, regardless of the decision. */
  remarks(outcome, key) {
    return [
      outcome.labels_checked && h("p", { class: "hint" }, "The owner vouched for the labels."),
      outcome.warning && h("p", { class: "hint" }, `${capitalized(outcome.warning)}.`),
      outcome.measured && this.facePictures("Labels to check", outcome.measured.suspects, outcome.labels, `suspects-${key}`),
    ];
  }

  /** Shows the figures, behind a disclosure. */
  measured({ measured, labels }, key) {
    if (!measured) return null;
    return this.details(
      `details-${key}`,
      "Details",
      h("dl", { class: "figures" }, h("dt", {}, "Before"), h("dd", {}, score(measured.before)), h("dt", {}, "After"), h("dd", {}, score(measured.after)), h("dt", {}, "Loss"), h("dd", {}, `${Math.abs(measured.gain).toFixed(3)} ${measured.gain < 0 ? "higher" : "lower"}, standard error ${measured.standard_error.toFixed(3)}`), h("dt", {}, "Trained"), h("dd", {}, trained(measured.adaptation))),
      h(
        "div",
        { class: "split" },
        measured.curve.length > 1 &&
          h("figure", {}, line({ points: measured.curve.map((point) => [point.steps, point.loss]), title: "Loss on held-out pictures", x: "steps", y: "loss", chosen: measured.steps }), h("figcaption", {}, "Loss on held-out pictures. The filled dot marks the chosen number of steps.")),
        h("div", {}, confusion(labels, measured.before.confusion, "Before"), confusion(labels, measured.after.confusion, "After", library), h("p", { class: "hint" }, "A number links to the face pictures with this label for which the model in use predicts this.")),
      ),
      this.facePictures("Worst mistakes", measured.worst, labels, `worst-${key}`),
    );
  }

  facePictures(title, list, labels, key) {
    if (list.length === 0) return null;
    const items = list.map((sample) => {
      const label = words(labels[sample.label] ?? "?");
      return { id: sample.id, name: `Labeled ${label} at the training`, caption: [h("span", {}, label), h("span", { class: "hint" }, `probability ${percent(sample.probability, 0)}`)] };
    });
    return this.details(key, `${title} (${list.length})`, strip(items));
  }

  /** Plots the accuracy of the models over time. */
  accuracyPlot(heads) {
    const measured = heads.filter((head) => head.outcome?.measured);
    if (measured.length < 2) return null;
    const points = measured.map((head) => [head.number, head.outcome.measured.after.accuracy]);
    return h("figure", { class: "card" }, line({ points, title: "Accuracy of each model", x: "model", y: "accuracy", chosen: heads.find((head) => head.current)?.number, format: (value) => percent(value, 0) }), h("figcaption", {}, "Each model was measured on the pictures held out at the time. The filled dot marks the model in use."));
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
        h("strong", {}, builtIn ? "Built-in model" : `Model ${head.number}`),
        head.current && h("span", { class: "badge" }, "in use"),
        " ",
        builtIn ? "" : head.damage ?? (measured ? `right on ${measured.after.right} of ${measured.after.samples}, before on ${measured.before.right}` : head.recipe),
      ),
      h("p", { class: "hint" }, `${builtIn ? "Part of maskd or of the configured classifier" : `Trained from ${head.parent === undefined ? "the built-in model" : `model ${head.parent}`}`}; labels: ${head.labels.map(words).join(", ")}.`),
      head.outcome && [head.outcome.reason && h("p", {}, `${capitalized(head.outcome.reason)}.`), this.remarks(head.outcome, head.number), this.measured(head.outcome, head.number)],
      !head.damage &&
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", id: `use-${head.number}`, class: "quiet", disabled: head.current, onclick: () => this.use(head.number) }, "Use this model"),
          h("a", { class: "button quiet", href: fileOfHead(head.number), download: `model-${head.number}.onnx` }, "Export"),
        ),
    );
  }

  async refit() {
    // The owner vouches for the labels of one training, so the checkbox is cleared at once.
    const box = document.getElementById("labels-checked");
    const checked = box.checked;
    box.checked = false;
    this.labelsChecked = false;
    toast("Training…");
    setTimeout(() => this.look(), 200);
    try {
      const record = await api.refit(checked);
      toast(record.head === undefined ? "The model stays as it is." : `Model ${record.head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }

  async rollback() {
    if (await confirmed("Go back to the previous model?", "Roll back")) await this.change(() => api.rollback());
  }

  async use(number) {
    if (await confirmed(`Use ${named(number)}?`, "Use it")) await this.change(() => api.use(number));
  }

  /** Changes the model in use, and says which one is then in use. */
  async change(request) {
    try {
      const { head } = await request();
      toast(head === undefined ? "The built-in model is in use." : `Model ${head} is in use.`);
    } catch (problem) {
      toast(problem.message);
    }
    this.look();
  }
}

customElements.define("learning-view", LearningView);
