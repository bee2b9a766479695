// Requests to the daemon. A failure is thrown as an ApiError with a one-sentence message.

import { device } from "./dom.js";
import { t } from "./texts.js";

export class ApiError extends Error {
  /** `fields` says what is wrong with each field of the request, if the device knows. */
  constructor(status, sentence, { fields = {}, isFromDevice = false } = {}) {
    super(sentence);
    this.status = status;
    this.fields = fields;
    this.isFromDevice = isFromDevice;
  }

  /** Returns the message for display. */
  get shown() {
    return this.isFromDevice ? device(this.message) : this.message;
  }
}

async function request(method, path, body, options = {}) {
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: body === undefined ? {} : { "content-type": "application/json" },
      ...options,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, t("error.silent"));
  }
  if (response.ok) return response;
  const record = await response.json().catch(() => ({}));
  // The session has ended, so the page asks for the password again.
  if (response.status === 401 && path !== "/session") {
    window.dispatchEvent(new Event("logged-out"));
  }
  if (record.error === undefined) throw new ApiError(response.status, t("error.status", { status: String(response.status) }));
  throw new ApiError(response.status, sentence(record.error), { fields: record.fields, isFromDevice: true });
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");
}

const json = async (...args) => (await request(...args)).json();

/** Lists the samples that match a filter. Returns them and the number of all that match. */
async function samples(filter) {
  const present = Object.entries(filter).filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  const response = await request("GET", `/samples?${new URLSearchParams(present)}`);
  return { total: Number(response.headers.get("x-total")), samples: await response.json() };
}

/** Returns a sample with what the model predicts, or null if it no longer exists. */
async function sample(id) {
  for (const discarded of [false, true]) {
    const found = (await samples({ id, discarded, predictions: true })).samples.find((one) => one.id === id);
    if (found) return { ...found, discarded };
  }
  return null;
}

export const api = {
  session: () => json("GET", "/session"),
  logIn: (password) => json("POST", "/session", { password }),
  logOut: () => json("DELETE", "/session"),
  /** Without the time limit, the page would keep showing what an unplugged device said last. */
  live: () => json("GET", "/live", undefined, { signal: AbortSignal.timeout(5000) }),
  status: () => json("GET", "/status"),
  events: () => json("GET", "/events"),
  queue: () => json("GET", "/queue"),
  stats: () => json("GET", "/samples/stats"),
  samples,
  sample,
  /** Labels or discards samples, even if the page is closed in the meantime. */
  mark: (ids, mark) => json("POST", "/samples/label", { chosen: { ids }, mark }, { keepalive: true }),
  /** Sends a picture, whose faces become samples without a label. */
  upload: (picture, signal) => json("POST", "/samples/upload", undefined, { body: picture, headers: { "content-type": picture.type }, signal }),
  restore: (ids) => json("POST", "/samples/restore", { ids }),
  undo: (action) => json("POST", "/samples/undo", { action }),
  enroll: (request) => json("POST", "/enroll", request),
  /** Returns the counts of an enrollment, and tells the device that someone still waits for it. */
  enrollment: (id) => json("GET", `/enroll/${id}`),
  endEnrollment: (id) => json("DELETE", `/enroll/${id}`),
  heads: () => json("GET", "/heads"),
  history: () => json("GET", "/heads/history"),
  refit: (checked) => json("POST", "/refit", { labels_checked: checked }),
  use: (number) => json("POST", `/heads/${number}/use`),
  rollback: () => json("POST", "/heads/rollback", { steps: 1 }),
  device: () => json("GET", "/device"),
  testLeds: () => json("POST", "/device/led-test"),
  counts: (query) => json("GET", `/counts?${new URLSearchParams(query)}`),
  settings: () => json("GET", "/settings"),
  changeSettings: (change) => json("PATCH", "/settings", change),
  /** Waits for a picture whose number is greater than `after`. Returns { number, blob }, or null if none arrives in time. */
  async picture(after, signal) {
    const response = await request("GET", `/live/picture?after=${after}`, undefined, { signal });
    if (response.status === 204) return null;
    return { number: Number(response.headers.get("x-picture")), blob: await response.blob() };
  },
};

export const pictureOf = (id) => `/api/v1/samples/${encodeURIComponent(id)}/picture`;
export const countsFile = (query) => `/api/v1/counts?${new URLSearchParams({ ...query, format: "csv" })}`;
export const fileOfHead = (number) => `/api/v1/heads/${number}/file`;
