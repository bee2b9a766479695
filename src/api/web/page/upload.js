// Uploads pictures, and lets the person choose the label of the faces in them.

import { api, pictureOf } from "./api.js";
import { fill, h, redraw } from "./dom.js";
import { announce, labelName, labelsOf, markSamples, newLabelField } from "./marking.js";
import { list, rich, t, words } from "./texts.js";

const MAX_FILES = 200;

/** Larger files are not opened, because the browser may run out of memory. */
const MAX_FILE_MIB = 40;

/** Larger pictures are made smaller before they are sent. A face at a door does not need more. */
const LONGEST_SIDE = 1920;

/** What the device accepts, in bytes. */
const MAX_BODY = 8 * 1024 * 1024;

const FORMATS = ["image/jpeg", "image/png", "image/webp"];

/** How often a picture is sent again while the device is busy with others. */
const ATTEMPTS = 30;

const BUSY = 503;
const NOT_NOW = 409;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Returns a picture as the device accepts it. Making it smaller also removes what a camera
    notes in the file, such as the place. */
async function prepared(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && FORMATS.includes(file.type) && file.size <= MAX_BODY) {
    bitmap.close();
    return file;
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

class UploadPanel extends HTMLElement {
  connectedCallback() {
    /** The faces that wait for a label here. */
    this.faces = [];
    this.notes = [];
    this.input = h("input", { type: "file", id: "upload-files", multiple: true, accept: FORMATS.join(","), hidden: true, onchange: () => this.take() });
    this.button = h("button", { type: "button", id: "upload", class: "quiet", onclick: () => this.input.click() }, t("upload.button"));
    this.cancel = h("button", { type: "button", id: "upload-stop", class: "quiet", hidden: true, onclick: () => this.aborter?.abort() }, t("upload.stop"));
    this.bar = h("progress", { id: "upload-progress", max: 1, value: 0, hidden: true, "aria-label": t("upload.title") });
    this.status = h("p", { role: "status", id: "upload-status" });
    this.error = h("p", { class: "error", role: "alert" });
    this.results = h("div");
    fill(
      this,
      h("p", { class: "hint" }, t("upload.hint")),
      h("div", { class: "row" }, this.button, this.cancel, this.input),
      this.bar,
      this.status,
      this.error,
      this.results,
    );
  }

  disconnectedCallback() {
    this.aborter?.abort();
  }

  /** Sends the chosen pictures one after the other. */
  async take() {
    const chosen = [...this.input.files];
    this.input.value = "";
    if (chosen.length === 0) return;
    const files = chosen.slice(0, MAX_FILES);
    this.notes = chosen.length > MAX_FILES ? [t("upload.tooMany", { number: MAX_FILES })] : [];
    this.without = [];
    this.aborter = new AbortController();
    this.button.disabled = true;
    this.cancel.hidden = this.bar.hidden = false;
    this.bar.max = files.length;
    fill(this.error);
    fill(this.results);
    let done = 0;
    try {
      for (const file of files) {
        this.bar.value = done;
        this.status.textContent = t("upload.progress", { done: done + 1, number: files.length });
        await this.send(file);
        done += 1;
        if (this.aborter.signal.aborted) break;
      }
    } catch (problem) {
      if (problem.name !== "AbortError") fill(this.error, problem.shown ?? problem.message);
    }
    this.button.disabled = false;
    this.cancel.hidden = this.bar.hidden = true;
    this.status.textContent = "";
    announce();
    await this.load();
  }

  async send(file) {
    const name = h("span", { translate: "no" }, file.name);
    if (file.size > MAX_FILE_MIB * 1024 * 1024) {
      this.notes.push(rich("upload.tooLarge", { name, limit: MAX_FILE_MIB }));
      return;
    }
    let picture;
    try {
      picture = await prepared(file);
    } catch {
      this.notes.push(rich("upload.unreadable", { name }));
      return;
    }
    try {
      const { faces } = await this.post(picture);
      if (faces.length === 0) this.without.push(file.name);
      const several = faces.length > 1 ? faces.length : 0;
      // In a picture with several people, the person has to say who is meant.
      this.faces.push(...faces.map(({ id, new: isNew }) => ({ id, isNew, several, name: file.name, taken: isNew && !several })));
    } catch (problem) {
      // Other pictures would be refused for the same reason.
      if (problem.name === "AbortError" || problem.status === NOT_NOW || problem.status === 0) throw problem;
      this.notes.push(rich("upload.failed", { name, reason: problem.shown }));
    }
  }

  /** Sends a picture, again and again while the device is busy with others. */
  async post(picture) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await api.upload(picture, this.aborter.signal);
      } catch (problem) {
        if (problem.status !== BUSY || attempt === ATTEMPTS) throw problem;
        await wait(2000);
      }
    }
  }

  async load() {
    try {
      this.labels = labelsOf(await api.status());
      this.render();
    } catch (problem) {
      fill(this.error, problem.shown);
    }
  }

  render() {
    if (!this.isConnected) return;
    const without = this.without.length > 0 && [rich("upload.none", { number: this.without.length, names: h("span", { translate: "no" }, list(this.without)) })];
    const notes = [without, ...this.notes].filter(Boolean);
    const faces = this.faces;
    this.newLabel = newLabelField("upload-new-label", this.newLabel);
    redraw(
      this.results,
      notes.length > 0 && h("ul", { class: "hint", id: "upload-notes" }, notes.map((note) => h("li", {}, note))),
      faces.length > 0 && [
        h("h3", { id: "upload-found" }, t("upload.found", { number: faces.length })),
        faces.some((face) => face.several) && h("p", { class: "hint" }, t("upload.severalHint")),
        h("div", { class: "crops" }, faces.map((face, at) => this.face(face, at))),
        h("div", { class: "labels", role: "group", "aria-label": t("queue.labels") }, this.labels.map((label) => h("button", { type: "button", id: `upload-label-${label}`, class: "label", onclick: () => this.mark({ as: label }) }, words(label)))),
        h(
          "form",
          {
            class: "row",
            onsubmit: async (event) => {
              event.preventDefault();
              const name = labelName(this.newLabel.value);
              if (name && (await this.mark({ as: name }))) this.newLabel.value = "";
            },
          },
          this.newLabel,
          h("button", { class: "quiet", id: "upload-use" }, t("mark.use")),
          h("button", { type: "button", class: "quiet danger", id: "upload-discard", onclick: () => this.mark("discard") }, t("mark.discard")),
          h("button", { type: "button", class: "quiet", id: "upload-later", onclick: () => this.later() }, t("upload.later")),
        ),
      ],
    );
  }

  face(face, at) {
    const notes = [face.several > 0 && t("upload.several", { number: face.several }), !face.isNew && t("upload.already")].filter(Boolean);
    const toggle = (event) => {
      face.taken = !face.taken;
      event.currentTarget.setAttribute("aria-pressed", String(face.taken));
    };
    return h(
      "figure",
      {},
      h(
        "button",
        { type: "button", class: "crop", id: `upload-face-${at}`, "data-sample": face.id, "aria-pressed": String(face.taken), "aria-label": t("upload.face", { at: at + 1, number: this.faces.length, name: face.name }), onclick: toggle },
        h("img", { src: pictureOf(face.id), alt: "", width: 224, height: 224 }),
      ),
      h("figcaption", {}, h("span", { class: "file", translate: "no" }, face.name), notes.map((note) => h("span", { class: "note" }, note))),
    );
  }

  /** Labels or discards the selected faces, which are then no longer shown here. */
  async mark(mark) {
    const taken = this.faces.filter((face) => face.taken);
    if (taken.length === 0) {
      fill(this.error, t("queue.noneSelected"));
      return false;
    }
    fill(this.error);
    const accepted = await markSamples(taken.map((face) => face.id), mark);
    if (accepted) {
      this.faces = this.faces.filter((face) => !face.taken);
      if (mark.as && !this.labels.includes(mark.as)) this.labels.push(mark.as);
      // What is left may be meant by the next label.
      for (const face of this.faces) face.taken = this.faces.length === 1;
      this.render();
    }
    return accepted;
  }

  later() {
    this.faces = [];
    this.notes = [t("upload.waiting")];
    this.without = [];
    this.render();
  }
}

customElements.define("upload-panel", UploadPanel);
