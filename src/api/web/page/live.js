// The live view: what the camera currently sees.

import { api } from "./api.js";
import "./teach.js";
import { doorElement, showDoor } from "./door.js";
import { count, fill, h, percent, whileVisible, words } from "./dom.js";

const DECISIONS = {
  idle: "Nobody there",
  mask: "Everybody wears a mask",
  no_mask: "Somebody without a mask",
  unsure: "Unsure",
  fault: "No new frames from the camera",
};

/** How often the view asks for the state of the device, in ms. */
const INTERVAL = 500;

/** The waits between attempts to reach a device that does not respond, in seconds. */
const RETRIES = [1, 2, 4, 8];

const CURRENT = "The newest frame, with a box around each face";

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

class LiveView extends HTMLElement {
  connectedCallback() {
    this.decision = h("p", { class: "decision", role: "status", "aria-live": "polite" });
    this.picture = h("img", { class: "camera", alt: CURRENT });
    this.moving = !reducedMotion.matches;
    this.pause = h("button", { type: "button", class: "quiet", onclick: () => this.toggle() });
    this.reason = h("p", { class: "error", role: "alert" });
    this.door = doorElement();
    this.faces = h("ul", { class: "faces", "aria-label": "Faces" });
    this.figures = h("dl", { class: "figures" });
    fill(this, 
      h(
        "div",
        { class: "split" },
        h("section", { "aria-label": "Camera" }, this.decision, this.door, this.reason, this.picture, h("div", { class: "row" }, this.pause)),
        h("section", { "aria-label": "Details" }, h("h2", {}, "Faces"), this.faces, h("h2", {}, "Device"), this.figures, h("teach-panel")),
      ),
    );
    this.updateButton();
    this.failures = 0;
    this.end = whileVisible(() => this.look(), INTERVAL);
    this.aborter = new AbortController();
    this.watch();
  }

  disconnectedCallback() {
    this.end();
    this.aborter.abort();
    URL.revokeObjectURL(this.picture.src);
  }

  updateButton() {
    this.pause.replaceChildren(this.moving ? "Pause the picture" : "Resume the picture");
  }

  toggle() {
    this.moving = !this.moving;
    this.updateButton();
  }

  // Shows each picture as soon as it arrives. While the view is paused, or if the user
  // prefers reduced motion, it shows a single still picture.
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
          // A restarted daemon numbers its pictures from the beginning.
          number = 0;
          continue;
        }
        const old = this.picture.src;
        number = next.number;
        this.picture.src = URL.createObjectURL(next.blob);
        await this.picture.decode().catch(() => {});
        if (old) URL.revokeObjectURL(old);
        shown = true;
      } catch {
        // The other request of this view says why.
        if (signal.aborted) return;
        await wait(1000);
      }
    }
  }

  async look() {
    try {
      const live = await api.live();
      if (!this.isConnected) return;
      this.failures = 0;
      this.show(live);
    } catch (problem) {
      if (this.isConnected) await this.waitForDevice(problem);
    }
  }

  /** Says why the device cannot be reached, and counts down to the next attempt. */
  async waitForDevice(problem) {
    this.showDecision("fault", "The device cannot be reached");
    showDoor(this.door, null);
    const seconds = RETRIES[Math.min(this.failures, RETRIES.length - 1)];
    this.failures += 1;
    // Every number would be announced, so the alert contains only the reason.
    const next = h("span", { "aria-hidden": "true" });
    this.clear([problem.message, next]);
    for (let left = seconds; left > 0 && this.isConnected; left -= 1) {
      next.textContent = ` Next try in ${left} s.`;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    next.textContent = " Trying again…";
  }

  /** Removes everything that is no longer true, and says why. */
  clear(reason) {
    this.picture.classList.add("stale");
    this.picture.alt = "The last frame that was received, not what the camera sees now";
    fill(this.reason, reason);
    fill(this.faces, h("li", { class: "hint" }, "Unknown"));
    fill(this.figures);
  }

  showDecision(decision, text) {
    this.decision.className = `decision ${decision}`;
    // Screen readers announce every assignment, so assign only changes.
    if (this.decision.textContent !== text) this.decision.textContent = text;
  }

  /** Returns why the newest frame is not what the camera sees now, or null if it is. */
  staleness(live) {
    if (live.camera_lost) {
      return `The camera is lost${live.camera_lost_because ? `: ${live.camera_lost_because}` : ""}. The device tries to reconnect it, first after half a second, then less often, at least every 30 s.`;
    }
    if (live.decision === "fault") return "The device waits for the next frame from the camera.";
    return null;
  }

  show(live) {
    if (live.statistics_mode) {
      this.aborter.abort();
      this.picture.hidden = this.pause.hidden = true;
      this.showDecision("idle", "Statistics mode: people are only counted");
      fill(this.faces, h("li", { class: "hint" }, "Not shown in statistics mode"));
      fill(this.reason, this.staleness(live));
      return;
    }
    this.showDecision(live.decision, DECISIONS[live.decision] ?? words(live.decision));
    showDoor(this.door, live.door);
    const stale = this.staleness(live);
    if (stale) {
      // An alert is announced again whenever it is assigned.
      if (this.reason.textContent !== stale) this.clear(stale);
    } else {
      this.picture.classList.remove("stale");
      this.picture.alt = CURRENT;
      fill(this.reason);
      const faces = live.frame?.faces ?? [];
      this.faces.replaceChildren(...faces.map((face) => this.face(face)));
      if (faces.length === 0) this.faces.append(h("li", { class: "hint" }, "No face in the newest frame."));
    }
    const board = live.board ?? {};
    const figures = [
      ["Camera", live.camera_lost ? `lost; reconnecting (${count(live.camera_losses, "time")} so far)` : live.frame ? "running" : "starting"],
      ...(stale
        ? []
        : [
            ["Frames per second", live.frames_per_second.toFixed(1)],
            ["Latency", `${live.latency_ms.toFixed(0)} ms`],
          ]),
      ["Temperature", board.temperature_c === undefined ? "unknown" : `${board.temperature_c.toFixed(0)} °C`],
      ["Model", live.head === undefined ? "built-in" : `number ${live.head}`],
      ["Face pictures", live.capture.off_because ? `not kept: ${live.capture.off_because}` : live.capture.on ? "kept" : "not kept"],
    ];
    if (live.times) {
      const names = [["indicate", "LEDs"], ["lock", "Lock"], ["capture", "Capturing"], ["sound", "Sound"]];
      for (const [key, name] of names) {
        const { on, next_change: next } = live.times[key];
        if (!on || next) figures.push([name, `${on ? "on" : "off"} at this time${next ? ` until ${next.slice(0, 10)} ${next.slice(11, 16)}` : ""}`]);
      }
      if (!live.times.clock_synchronized) figures.push(["Times", "do not apply, because the clock is not synchronized"]);
    }
    const retention = live.retention;
    if (retention?.labeled_ending) {
      figures.push(["Deletion", `${count(retention.labeled_ending, "labeled face picture")} will reach the age limit (capture.keep-days); the first is deleted in ${retention.first_ends_in_hours} h`]);
    }
    if (retention?.not_counted) figures.push(["Large files", `${retention.not_counted} over 1 MiB do not count toward capture.max-mib`]);
    if (retention && !retention.clock_synchronized) figures.push(["Clock", "not synchronized, or it jumped within the last day; the age of face pictures counts only the time that the daemon runs"]);
    if (live.head_note) figures.push(["Note", live.head_note]);
    if (live.learning_off) figures.push(["Learning", `off: the state directory cannot be used: ${live.learning_off}`]);
    if (live.refitting) figures.push(["Training", "in progress"]);
    if (live.learning_waits) figures.push(["Training", `paused: ${live.learning_waits}`]);
    if (board.throttling?.under_voltage) figures.push(["Power supply", "voltage too low"]);
    for (const problem of Object.values(live.problems ?? {})) figures.push(["Problem", problem]);
    this.figures.replaceChildren(...figures.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  face(face) {
    const all = Object.entries(face.probabilities ?? {});
    return h(
      "li",
      { class: `face ${face.verdict}` },
      h("strong", {}, words(face.verdict)),
      all.length === 0
        ? h("span", { class: "hint" }, "too small or too unclear")
        : all.map(([label, share]) =>
            h("label", { class: "share" }, h("span", {}, words(label)), h("meter", { min: 0, max: 1, value: share }), h("span", { class: "number" }, percent(share, 0))),
          ),
    );
  }
}

customElements.define("live-view", LiveView);
