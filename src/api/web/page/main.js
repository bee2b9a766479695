// The shell of the page, which handles login and navigation.

import { api } from "./api.js";
import { h, toast } from "./dom.js";
import "./live.js";
import "./label.js";
import "./library.js";
import "./learning.js";
import "./events.js";
import "./counts.js";
import "./settings.js";
import { watchWaiting } from "./waiting.js";

const VIEWS = {
  live: ["live-view", "Live"],
  label: ["label-queue", "Label"],
  library: ["library-view", "Library"],
  learning: ["learning-view", "Training"],
  events: ["events-view", "Events"],
  counts: ["counts-view", "Counts"],
  settings: ["settings-form", "Settings"],
};

const main = document.getElementById("main");
const nav = document.querySelector("nav");
const logOut = document.getElementById("log-out");

/** Ends the updates of the number of waiting face pictures. */
let endWaiting = () => {};

function show() {
  // What follows a question mark is for the view.
  const wanted = location.hash.slice(1).split("?")[0];
  const name = VIEWS[wanted] ? wanted : "live";
  const [tag, title] = VIEWS[name];
  document.title = `${title} · maskd`;
  for (const link of nav.children) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(h(tag));
}

function askForPassword(session) {
  endWaiting();
  nav.hidden = true;
  logOut.hidden = true;
  document.title = "Log in · maskd";
  if (!session.password) {
    main.replaceChildren(h("p", {}, "No password is set on this device. To create one, run ", h("code", {}, "maskd passwd"), "."));
    return;
  }
  const error = h("p", { class: "error", role: "alert" });
  const password = h("input", { type: "password", id: "password", name: "password", autocomplete: "current-password", required: true });
  const form = h(
    "form",
    {
      class: "card log-in",
      onsubmit: async (event) => {
        event.preventDefault();
        error.replaceChildren();
        try {
          begin(await api.logIn(password.value));
        } catch (problem) {
          error.replaceChildren(problem.message);
          password.select();
        }
      },
    },
    h("h2", {}, "Log in"),
    // Password managers expect a user name.
    h("input", { type: "text", autocomplete: "username", value: "maskd", hidden: true }),
    h("label", { for: "password" }, "Password"),
    password,
    error,
    h("button", {}, "Log in"),
  );
  main.replaceChildren(form);
  password.focus();
}

function begin(session) {
  if (!session.allowed) return askForPassword(session);
  nav.hidden = false;
  logOut.hidden = !session.session;
  endWaiting();
  endWaiting = watchWaiting();
  show();
}

async function start() {
  try {
    begin(await api.session());
  } catch (problem) {
    main.replaceChildren(h("p", { class: "error", role: "alert" }, problem.message), h("button", { type: "button", onclick: start }, "Try again"));
  }
}

logOut.addEventListener("click", async () => {
  try {
    askForPassword(await api.logOut());
  } catch (problem) {
    toast(problem.message);
  }
});
window.addEventListener("logged-out", start);
window.addEventListener("hashchange", () => {
  if (nav.hidden || location.hash === "#main") return;
  show();
  main.focus();
});
start();
