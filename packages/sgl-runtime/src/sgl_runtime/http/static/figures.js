// SPDX-License-Identifier: Apache-2.0
// The engine's figures, asked for once a second while it works and somebody looks, seldom otherwise.

import { byId } from "./dom.js";
import { getJson } from "./server.js";

const WORKING_MS = 1000;
const IDLE_MS = 5000;
const KEPT = 60; // speeds in the trace
const SUMMED = ["running", "waiting", "slots", "slots_used", "slots_cached", "prompt_tokens", "cached_tokens", "generated_tokens"];

const speeds = [];
let last = null;

/** Ask from now on, and return a function that asks soon. `onError` hears what goes wrong, and null when nothing
 * does. */
export function startFigures(onError) {
  let timer = 0;
  let asking = false;

  async function look() {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    let wait = IDLE_MS;
    try {
      const now = summed(await getJson("server_info"));
      show(now);
      if (now.running + now.waiting) wait = WORKING_MS;
      onError(null);
    } catch (error) {
      onError(error);
    }
    asking = false;
    plan(wait);
  }

  function plan(wait) {
    clearTimeout(timer);
    timer = setTimeout(look, wait);
  }

  document.addEventListener("visibilitychange", look);
  look();
  return () => plan(WORKING_MS / 4);
}

/** The loads of all replicas as one. */
function summed(info) {
  const sum = { at: info.uptime_seconds, version: info.version };
  for (const name of SUMMED) sum[name] = info.replicas.reduce((total, { load }) => total + load[name], 0);
  sum.context = Math.min(...info.replicas.map(({ capacity }) => capacity.context_length));
  return sum;
}

function show(now) {
  // A server that has started again counts from zero.
  const since = last && last.at < now.at ? last : now;
  const made = Math.max(now.generated_tokens - since.generated_tokens, 0);
  const speed = made && made / (now.at - since.at);
  last = now;
  write("speed", rounded(speed));
  write("running", now.running.toLocaleString());
  write("waiting", now.waiting.toLocaleString());
  write("used", share(now.slots_used, now.slots));
  write("cached", share(now.slots_cached, now.slots));
  write("hits", share(now.cached_tokens, now.prompt_tokens));
  byId("about").textContent = `sgl-runtime ${now.version} · up ${duration(now.at)} · context ${now.context.toLocaleString()}`;
  byId("load").textContent = now.running ? `${now.running} running · ${rounded(speed)} tokens/s` : "";
  trace(speed);
}

function write(name, text) {
  document.querySelector(`[data-figure="${name}"]`).textContent = text;
}

function trace(speed) {
  speeds.push(speed);
  if (speeds.length > KEPT) speeds.shift();
  const top = Math.max(...speeds, 1);
  const points = speeds.map((each, i) => `${240 - 4 * (speeds.length - 1 - i)},${39 - (37 * each) / top}`);
  byId("trace").querySelector("polyline").setAttribute("points", points.join(" "));
}

export function rounded(value) {
  return value.toLocaleString(undefined, { maximumFractionDigits: value < 1 ? 2 : value < 10 ? 1 : 0 });
}

function share(part, whole) {
  return whole ? (part / whole).toLocaleString(undefined, { style: "percent", maximumFractionDigits: 1 }) : "–";
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} days`;
}
