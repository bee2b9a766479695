// The view of the last events, and of the programs and webhooks that receive them.

import { api } from "./api.js";
import { count, fill, h, redraw, time, whileVisible, words } from "./dom.js";

const INTERVAL = 3000;

class EventsView extends HTMLElement {
  connectedCallback() {
    this.error = h("p", { class: "error", role: "alert" });
    this.receivers = h("div");
    this.list = h("div");
    fill(this, h("h2", {}, "Events"), this.error, this.receivers, this.list);
    this.end = whileVisible(() => this.look(), INTERVAL);
  }

  disconnectedCallback() {
    this.end();
  }

  async look() {
    try {
      const [events, { receivers = [] }] = await Promise.all([api.events(), api.status()]);
      if (!this.isConnected) return;
      fill(this.error);
      this.show(events, receivers);
    } catch (problem) {
      // An alert is announced again whenever it is assigned.
      if (this.isConnected && this.error.textContent !== problem.message) fill(this.error, problem.message);
    }
  }

  show(events, receivers) {
    // What has not changed stays, so that the text that a reader is at does not disappear.
    const shown = JSON.stringify([events.map(({ id }) => id), receivers]);
    if (shown === this.shown) return;
    this.shown = shown;
    redraw(this.receivers, receivers.length > 0 && [h("h3", {}, "Receivers"), h("ul", { class: "plain", "aria-label": "Receivers" }, receivers.map(receiver))]);
    redraw(
      this.list,
      receivers.length > 0 && h("h3", {}, "Last events"),
      events.length === 0
        ? h("p", { class: "hint" }, "Nothing has happened since the device was started.")
        : h("ol", { class: "plain", "aria-label": "Events, newest first" }, events.map(event)),
    );
  }
}

const event = ({ kind, time: at, message, clock_synchronized: isSynchronized }) =>
  h(
    "li",
    { class: "card event" },
    h("time", { datetime: at }, time(at), isSynchronized ? "" : " (the clock of the device may be wrong)"),
    h("strong", {}, words(kind)),
    h("span", {}, message),
  );

function receiver(record) {
  const { name, delivered, waiting, dropped, failures_in_a_row: failures } = record;
  return h(
    "li",
    { class: `card event ${failures > 0 ? "bad" : "good"}` },
    h("strong", {}, name),
    h("span", {}, `${delivered} delivered, ${waiting} waiting, ${dropped} lost`),
    record.last_delivered && h("span", { class: "hint" }, `Last delivery: ${time(record.last_delivered)}`),
    record.last_failure && h("span", { class: failures > 0 ? "error" : "hint" }, `Last failure (${time(record.last_failed)}${failures > 1 ? `, ${count(failures, "time")} in a row` : ""}): ${record.last_failure}.`),
    record.not_saved && h("span", { class: "error" }, `A restart would lose the waiting events: ${record.not_saved}.`),
  );
}

customElements.define("events-view", EventsView);
