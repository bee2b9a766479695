// What the camera sees now.

import { api } from "./api.js";
import { fill, h, percent, whileSeen, words } from "./dom.js";

const DECISIONS = {
  idle: "Nobody is there",
  mask: "Everybody wears a mask",
  no_mask: "Somebody wears no mask",
  unsure: "Unsure",
  fault: "No fresh frames",
};

const calm = matchMedia("(prefers-reduced-motion: reduce)");

class LiveView extends HTMLElement {
  connectedCallback() {
    this.decision = h("p", { class: "decision", role: "status", "aria-live": "polite" });
    this.picture = h("img", { class: "camera", alt: "The newest frame, with a box around each face" });
    this.moving = !calm.matches;
    this.pause = h("button", { type: "button", class: "quiet", onclick: () => this.toggle() });
    this.note = h("p", { class: "hint" });
    this.faces = h("ul", { class: "faces", "aria-label": "Faces" });
    this.figures = h("dl", { class: "figures" });
    fill(this, 
      h(
        "div",
        { class: "split" },
        h("section", { "aria-label": "Camera" }, this.decision, this.picture, h("div", { class: "row" }, this.pause, this.note)),
        h("section", { "aria-label": "Details" }, h("h2", {}, "Faces"), this.faces, h("h2", {}, "Device"), this.figures),
      ),
    );
    this.say();
    this.end = whileSeen(() => this.look(), 500);
    this.aborter = new AbortController();
    this.watch();
  }

  disconnectedCallback() {
    this.end();
    this.aborter.abort();
    URL.revokeObjectURL(this.picture.src);
  }

  say() {
    this.pause.replaceChildren(this.moving ? "Pause the picture" : "Show the picture moving");
  }

  toggle() {
    this.moving = !this.moving;
    this.say();
  }

  // One picture after the other, each when it is there. Paused, and where motion
  // is not wanted, one is shown and stays.
  async watch() {
    const { signal } = this.aborter;
    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    let number = 0;
    let shown = false;
    while (!signal.aborted) {
      if (document.hidden || (shown && !this.moving)) {
        await wait(300);
        continue;
      }
      try {
        const next = await api.picture(number, signal);
        if (!next) {
          // A daemon that was started anew counts from the beginning.
          number = 0;
          continue;
        }
        const old = this.picture.src;
        number = next.number;
        this.picture.src = URL.createObjectURL(next.blob);
        await this.picture.decode().catch(() => {});
        if (old) URL.revokeObjectURL(old);
        shown = true;
        this.note.replaceChildren();
      } catch (problem) {
        if (signal.aborted) return;
        this.note.replaceChildren(problem.message);
        await wait(1000);
      }
    }
  }

  async look() {
    try {
      this.show(await api.live());
    } catch (problem) {
      this.set("fault", problem.message);
    }
  }

  set(decision, text) {
    this.decision.className = `decision ${decision}`;
    // A reader says it when it changes, and not twice a second.
    if (this.decision.textContent !== text) this.decision.textContent = text;
  }

  show(live) {
    this.set(live.decision, DECISIONS[live.decision] ?? words(live.decision));
    const faces = live.frame?.faces ?? [];
    this.faces.replaceChildren(...faces.map((face) => this.face(face)));
    if (faces.length === 0) this.faces.append(h("li", { class: "hint" }, "No face in the newest frame."));
    const board = live.board ?? {};
    const figures = [
      ["Camera", live.camera_lost ? `lost, being opened anew (${live.camera_losses} times so far)` : live.frame ? "running" : "starting"],
      ["Frames a second", live.frames_per_second.toFixed(1)],
      ["Latency", `${live.latency_ms.toFixed(0)} ms`],
      ["Temperature", board.temperature_c === undefined ? "not known" : `${board.temperature_c.toFixed(0)} °C`],
      ["Head", live.head === undefined ? "the shipped one" : `number ${live.head}`],
      ["Capture", live.capture.off_because ? `off: ${live.capture.off_because}` : live.capture.on ? "on" : "off"],
    ];
    if (live.refitting) figures.push(["Learning", "a head is being learned"]);
    if (live.learning_waits) figures.push(["Learning", `waits, since ${live.learning_waits}`]);
    if (board.throttling?.under_voltage) figures.push(["Supply", "its voltage is too low"]);
    this.figures.replaceChildren(...figures.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  face(face) {
    const all = Object.entries(face.probabilities ?? {});
    return h(
      "li",
      { class: `face ${face.verdict}` },
      h("strong", {}, words(face.verdict)),
      all.length === 0
        ? h("span", { class: "hint" }, "too small or too unclear to tell")
        : all.map(([label, share]) =>
            h("label", { class: "share" }, h("span", {}, words(label)), h("meter", { min: 0, max: 1, value: share }), h("span", { class: "number" }, percent(share, 0))),
          ),
    );
  }
}

customElements.define("live-view", LiveView);
