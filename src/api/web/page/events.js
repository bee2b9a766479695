// The view of the last events, and of the programs and webhooks that receive them.

import { api } from "./api.js";
import { clause, device, fill, h, redraw, whileVisible } from "./dom.js";
import { known, rich, t, time, words } from "./texts.js";

const INTERVAL = 3000;

class EventsView extends HTMLElement {
  connectedCallback() {
    this.error = h("p", { class: "error", role: "alert" });
    this.receivers = h("div");
    this.list = h("div");
    fill(this, h("h2", {}, t("events.title")), this.error, this.receivers, this.list);
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
      if (this.isConnected && this.error.textContent !== problem.message) fill(this.error, problem.shown);
    }
  }

  show(events, receivers) {
    // What has not changed stays, so that the text that a reader is at does not disappear.
    const shown = JSON.stringify([events.map(({ id }) => id), receivers]);
    if (shown === this.shown) return;
    this.shown = shown;
    redraw(this.receivers, receivers.length > 0 && [h("h3", {}, t("events.receivers")), h("ul", { class: "plain", "aria-label": t("events.receivers") }, receivers.map(receiver))]);
    redraw(
      this.list,
      receivers.length > 0 && h("h3", {}, t("events.last")),
      events.some((one) => !one.clock_synchronized) && h("p", { class: "hint" }, t("events.clock")),
      events.length === 0
        ? h("p", { class: "hint" }, t("events.none"))
        : h("ol", { class: "plain", "aria-label": t("events.newestFirst") }, events.map(event)),
    );
  }
}

/** Returns a sentence that says what happened. */
function sentence(event) {
  const { kind, decision, seconds, model, reason, reason_code: code, free_mib: free } = event;
  const key = kind === "decision" ? `event.decision.${decision}` : model === 0 ? "event.model.builtIn" : `event.${kind}.text`;
  // A newer device may know other kinds of events.
  if (known(key) === undefined) return device(event.message);
  return rich(key, { seconds, model, free, reason: reason && clause(reason, code) });
}

const event = (record) =>
  h(
    "li",
    { class: `card event ${record.decision ?? record.kind}` },
    // Most events are decisions, whose sentence needs no title.
    h("div", { class: "row between" }, h("strong", {}, record.kind === "decision" ? sentence(record) : known(`event.${record.kind}`, words(record.kind))), h("time", { datetime: record.time }, time(record.time))),
    record.kind !== "decision" && h("span", {}, sentence(record)),
  );

function receiver(record) {
  const { name, delivered, waiting, dropped, failures_in_a_row: failures } = record;
  return h(
    "li",
    { class: `card event ${failures > 0 ? "bad" : "good"}` },
    h("strong", { translate: "no" }, name),
    h("span", {}, t("events.deliveries", { delivered, waiting, dropped })),
    record.last_delivered && h("span", { class: "hint" }, t("events.lastDelivery", { time: time(record.last_delivered) })),
    record.last_failure && h("span", { class: failures > 0 ? "error" : "hint" }, rich("events.lastFailure", { number: Math.max(failures, 1), time: time(record.last_failed), reason: device(record.last_failure) })),
    record.not_saved && h("span", { class: "error" }, rich("events.notSaved", { reason: device(record.not_saved) })),
  );
}

customElements.define("events-view", EventsView);
