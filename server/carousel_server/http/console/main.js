// Starts the page: the token, the server's status, and the four sections.

import { setToken, token } from "./api.js";
import { at, say } from "./dom.js";
import { Live } from "./live.js";
import { Models } from "./models.js";
import { Playground } from "./playground.js";
import { Sessions } from "./sessions.js";

const models = new Models();
const playground = new Playground();
const sessions = new Sessions();
let loaded = false;
let loading = false;
let refused = false;

function status(text, kind) {
  const [dot, words] = at("status").children;
  dot.className = `dot ${kind}`;
  say(words, text);
}

async function load() {
  if (loaded || loading) return;
  loading = true;
  try {
    playground.offer(await models.load());
    await sessions.load();
    loaded = true;
  } finally {
    loading = false;
  }
}

function heard(reading) {
  refused = false;
  const names = Object.keys(reading.models);
  const sick = names.filter((name) => !reading.models[name].healthy).length;
  status(sick ? `${sick} of ${names.length} models unhealthy` : "Connected", sick ? "bad" : "good");
  models.heard(reading);
  load().catch(failed);
}

function failed(error) {
  if (error.status === 401) {
    status(token() ? "Token refused" : "Token needed", "bad");
    at("token-open").hidden = false;
    if (!refused) at("token-dialog").showModal();
    refused = true;
  } else {
    status(error.reason || "Server not reached", "bad");
  }
}

const live = new Live(heard, failed);

at("token-open").hidden = !token();
at("token-open").addEventListener("click", () => at("token-dialog").showModal());
at("token-forget").addEventListener("click", () => {
  setToken("");
  at("token").value = "";
  at("token-dialog").close();
  location.reload();
});
at("token-form").addEventListener("submit", () => {
  setToken(at("token").value.trim());
  at("token").value = "";
  refused = false;
  loaded = false;
  live.refresh();
});
