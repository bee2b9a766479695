// The panel that every thumbnail opens: a large picture, what is known about it, and what a
// person can do with it.

import { api, pictureOf } from "./api.js";
import { figures, fill, h, redraw } from "./dom.js";
import { CHANGED, labelName, labelsOf, markSamples, newLabelField, restoreSamples } from "./marking.js";
import { known, list, percent, t, time, words } from "./texts.js";

/** Describes the quality of a picture in words. */
export function quality(sample) {
  const flaws = sample.flaws ?? [];
  return flaws.length === 0 ? t("quality.good") : list(flaws.map((flaw) => known(`quality.${flaw}`, flaw)));
}

/** Describes the size of the face in its frame. */
export const faceSize = (sample) => (sample.face_side === undefined ? t("common.unknown") : t("panel.pixels", { number: sample.face_side }));

/** Returns the address of the library with a filter. */
export const library = (filter) => `#library?${new URLSearchParams(filter)}`;

/** Returns the number of a track, or null for a picture that a person added. */
const trackNumber = (track) => /^t\d+$/.test(track) && Number(track.slice(1));

/**
 * Creates a button with the picture of a sample. The button opens the panel, which steps
 * through `ids`. `name` describes the picture.
 */
export function thumbnail(id, ids, name, attributes = {}) {
  return h(
    "button",
    { type: "button", class: "thumbnail", "data-sample": id, "aria-label": t("panel.open", { name }), onclick: () => openSample(id, ids), ...attributes },
    h("img", { src: pictureOf(id), alt: "", width: 224, height: 224, loading: "lazy" }),
  );
}

/** Opens the panel for a sample. The panel steps through `ids`. */
export function openSample(id, ids) {
  if (document.querySelector("dialog[open]")) return;
  const panel = h("sample-panel");
  panel.ids = ids;
  panel.at = Math.max(0, ids.indexOf(id));
  panel.opener = document.activeElement;
  document.body.append(panel);
}

class SamplePanel extends HTMLElement {
  connectedCallback() {
    this.picture = h("img", { class: "portrait", width: 448, height: 448, alt: "" });
    this.about = h("div");
    this.actions = h("div");
    this.position = h("span", { class: "hint", id: "panel-position" });
    this.previous = h("button", { type: "button", class: "quiet", id: "panel-previous", "aria-keyshortcuts": "ArrowLeft", onclick: () => this.step(-1) }, t("panel.previous"));
    this.next = h("button", { type: "button", class: "quiet", id: "panel-next", "aria-keyshortcuts": "ArrowRight", onclick: () => this.step(1) }, t("panel.next"));
    this.heading = h("h2", { id: "panel-title" }, t("panel.title"));
    this.dialog = h(
      "dialog",
      { class: "panel", "aria-labelledby": "panel-title", onclose: () => this.closed(), onkeydown: (event) => this.press(event) },
      h("div", { class: "row between" }, this.heading, h("button", { type: "button", class: "quiet", id: "panel-close", onclick: () => this.dialog.close() }, t("panel.close"))),
      h("div", { class: "panel-body" }, this.picture, h("div", {}, this.about, this.actions)),
      h("div", { class: "row between" }, this.previous, this.position, this.next),
    );
    this.append(this.dialog);
    this.onChanged = () => this.load();
    this.onLoggedOut = () => this.dialog.close();
    window.addEventListener(CHANGED, this.onChanged);
    window.addEventListener("logged-out", this.onLoggedOut);
    // Messages would otherwise be behind the dialog.
    this.dialog.append(document.getElementById("toast"));
    this.dialog.showModal();
    this.load();
  }

  disconnectedCallback() {
    window.removeEventListener(CHANGED, this.onChanged);
    window.removeEventListener("logged-out", this.onLoggedOut);
  }

  get sampleId() {
    return this.ids[this.at];
  }

  /** Returns the focus to where it was. The view may have been redrawn in the meantime. */
  closed() {
    document.body.append(document.getElementById("toast"));
    const { opener, sampleId } = this;
    this.remove();
    const again = opener?.isConnected && opener !== document.body ? opener : document.querySelector(`[data-sample="${CSS.escape(sampleId)}"]`);
    (again ?? document.getElementById("main")).focus();
  }

  step(by) {
    const at = this.at + by;
    if (at < 0 || at >= this.ids.length) return;
    this.at = at;
    this.load();
  }

  async load() {
    const id = this.sampleId;
    if (this.shownId !== id) {
      this.shownId = id;
      this.sample = undefined;
      this.picture.src = pictureOf(id);
      this.render();
    }
    try {
      const [sample, status] = await Promise.all([api.sample(id), api.status()]);
      // The person may have stepped on or closed the panel.
      if (!this.isConnected || this.sampleId !== id) return;
      this.sample = sample;
      this.labels = labelsOf(status);
      this.render();
    } catch (problem) {
      if (this.isConnected) fill(this.about, h("p", { class: "error", role: "alert" }, problem.shown));
    }
  }

  render() {
    this.position.textContent = t("panel.position", { at: this.at + 1, number: this.ids.length });
    const [isFirst, isLast] = [this.at === 0, this.at === this.ids.length - 1];
    // A disabled button would drop the focus out of the panel.
    this.previous.setAttribute("aria-disabled", String(isFirst));
    this.next.setAttribute("aria-disabled", String(isLast));
    const { sample } = this;
    if (sample === undefined) {
      this.heading.textContent = t("page.loading");
      fill(this.about);
      return;
    }
    if (sample === null) {
      this.heading.textContent = t("panel.deleted");
      this.picture.removeAttribute("src");
      this.picture.alt = "";
      fill(this.about, h("p", {}, t("panel.gone")));
      redraw(this.actions);
      return;
    }
    const label = sample.label === undefined ? t("label.none") : words(sample.label);
    this.heading.textContent = sample.discarded ? t("panel.discarded") : sample.label === undefined ? t("panel.notLabeled") : t("panel.labeled", { label });
    this.picture.alt = t("library.picture", { label, time: time(sample.time) });
    const track = trackNumber(sample.track);
    const facts = [
      [t("panel.label"), sample.suspect ? t("panel.mayBeWrong", { label }) : label],
      [t("panel.modelSays"), sample.predicted === undefined ? t("panel.notClassified") : t("panel.prediction", { label: words(sample.predicted), percent: percent(sample.probability, 0) })],
      [t("panel.quality"), sample.picture ? quality(sample) : t("library.noPicture")],
      [t("panel.size"), faceSize(sample)],
      [t("panel.time"), time(sample.time)],
      [t("panel.track"), track === false ? t("panel.byPerson") : h("a", { href: library({ track, day: sample.day }), id: "panel-track", onclick: () => this.dialog.close() }, t("panel.trackNumber", { track: String(track) }))],
    ];
    redraw(this.about, figures(facts));
    redraw(this.actions, sample.discarded ? this.discardedActions() : this.keptActions());
  }

  discardedActions() {
    return h("div", { class: "row" }, h("button", { type: "button", id: "panel-restore", onclick: () => restoreSamples([this.sampleId]) }, t("mark.restore")));
  }

  keptActions() {
    const { sample } = this;
    this.newLabel = newLabelField("panel-new-label", this.newLabel);
    const button = (id, name, current, mark) => h("button", { type: "button", id, class: "quiet", "aria-pressed": String(current), onclick: () => current || this.mark(mark) }, name);
    return [
      h(
        "div",
        { class: "row choices", role: "group", "aria-label": t("panel.label") },
        this.labels.map((label) => button(`panel-label-${label}`, words(label), sample.label === label, { as: label })),
        button("panel-no-label", t("label.none"), sample.label === undefined, "unlabelled"),
      ),
      h(
        "form",
        {
          class: "row",
          onsubmit: (event) => {
            event.preventDefault();
            const name = labelName(this.newLabel.value);
            if (name) this.mark({ as: name }).then((accepted) => accepted && (this.newLabel.value = ""));
          },
        },
        this.newLabel,
        h("button", { class: "quiet", id: "panel-use" }, t("mark.use")),
        h("button", { type: "button", class: "quiet danger", id: "panel-discard", "aria-keyshortcuts": "d", onclick: () => this.mark("discard") }, t("mark.discard")),
      ),
    ];
  }

  mark(mark) {
    return markSamples([this.sampleId], mark);
  }

  press(event) {
    if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else if (event.key === "d" && this.sample && !this.sample.discarded) this.mark("discard");
    else return;
    event.preventDefault();
  }
}

customElements.define("sample-panel", SamplePanel);

/** Creates a list of thumbnails. Each item has an id, a name for screen readers, and a caption. */
export function strip(items) {
  const ids = items.map((item) => item.id);
  return h("ul", { class: "strip" }, items.map(({ id, name, caption }) => h("li", {}, thumbnail(id, ids, name), caption)));
}
