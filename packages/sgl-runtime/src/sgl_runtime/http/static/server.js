// SPDX-License-Identifier: Apache-2.0
// The server's endpoints: JSON, streams of server-sent events, and its errors in its own words.

import { session } from "./store.js";

const BROKEN = "the connection ended before the answer did";

/** What the server refuses. `param` is the field at fault, if it names one; `status` 0: nobody answered. */
export class ServerError extends Error {
  constructor(message, { status = 0, param = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export function setKey(key) {
  session.write("key", key);
}

export async function getJson(path) {
  return (await ask(path, { cache: "no-store" })).json();
}

/** The events of a streamed answer, parsed. Throws ServerError for a refusal, an error event, or a stream that
 * breaks off; an AbortError when `signal` says so. */
export async function* streamEvents(path, body, signal) {
  const response = await ask(path, {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: { "content-type": "application/json" },
  });
  for await (const data of frames(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw refusal(event, response.status);
    yield event;
  }
  throw new ServerError(BROKEN);
}

async function ask(path, { headers = {}, ...options } = {}) {
  const key = session.read("key", "");
  // The first header tells the server that this page asks; see http/auth.py.
  const sent = { "x-requested-with": "page", ...headers, ...(key && { authorization: `Bearer ${ascii(key)}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer");
  }
  if (response.ok) return response;
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = { error: { message: `${response.status} ${response.statusText}: ${text.slice(0, 500)}` } };
  }
  throw refusal(answer, response.status);
}

function refusal(answer, status) {
  return new ServerError(answer.error.message, { status, param: answer.error.param });
}

/** A header's value is bytes: those of the key in UTF-8. */
function ascii(key) {
  return String.fromCharCode(...new TextEncoder().encode(key));
}

async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ServerError(BROKEN);
    });
    if (done) return;
    const whole = (text + value).split("\n\n");
    text = whole.pop();
    for (const frame of whole) yield frame.replace(/^data: /, "");
  }
}
