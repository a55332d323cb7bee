// SPDX-License-Identifier: Apache-2.0
// Conformance: OpenAI's client for node over every endpoint of a running server that its model has, streamed and not.
//
//     npm install --no-save openai@7 && node tests/clients/openai.mjs http://127.0.0.1:30000
//
// `--check` in place of the address says by its exit code whether the client is installed.

import assert from "node:assert/strict";
import OpenAI from "openai";

if (process.argv[2] === "--check") process.exit(0);

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "EMPTY", maxRetries: 0 });
const model = "default";
const messages = [
  { role: "system", content: "You are a helpful assistant." },
  { role: "user", content: "What is the weather in Rome?" },
];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12, pattern: "^[A-Z][a-z]+$" }, unit: { enum: ["C", "F"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "get_weather", parameters, strict: true } };

function isWeather(text) {
  const value = JSON.parse(text);
  assert.match(value.city, /^[A-Z][a-z]+$/);
  assert.ok(["C", "F"].includes(value.unit));
  assert.equal(Object.keys(value).length, 2);
}

// What is answered with the prompt in the cache, as it will be from then on: a prompt that is computed as a whole may
// round differently.
async function settled(endpoint, asked) {
  await endpoint.create(asked);
  return endpoint.create(asked);
}

async function ids(pages) {
  const found = [];
  for await (const each of pages) found.push(each.id);
  return found;
}

async function upload(endpoint, ...bodies) {
  const lines = bodies.map((body, i) => JSON.stringify({ custom_id: `${i}`, method: "POST", url: endpoint, body }));
  return client.files.create({ file: new File([lines.join("\n")], "in.jsonl"), purpose: "batch" });
}

// What the lines of a batch of these bodies are answered with.
async function answered(endpoint, ...bodies) {
  const file = await upload(endpoint, ...bodies);
  assert.deepEqual([file.filename, file.purpose, file.object], ["in.jsonl", "batch", "file"]);
  assert.equal((await client.files.retrieve(file.id)).bytes, file.bytes);
  let batch = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  while (batch.status !== "completed") {
    assert.ok(!["failed", "expired"].includes(batch.status), batch.status);
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.deepEqual(batch.request_counts, { total: bodies.length, completed: bodies.length, failed: 0 });
  assert.ok((await ids(client.batches.list({ limit: 1 }))).includes(batch.id));
  assert.ok((await ids(client.files.list({ purpose: "batch_output" }))).includes(batch.output_file_id));
  const lines = (await (await client.files.content(batch.output_file_id)).text()).trim().split("\n").map(JSON.parse);
  for (const id of [file.id, batch.output_file_id]) assert.ok((await client.files.delete(id)).deleted);
  await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
  const byName = Object.fromEntries(lines.map((line) => [line.custom_id, line.response.body]));
  return bodies.map((_, i) => byName[i]);
}

const every = {
  async models() {
    const [id, ...others] = await ids(client.models.list());
    assert.equal(others.length, 0);
    assert.equal((await client.models.retrieve(id)).id, id);
    await assert.rejects(client.models.retrieve("gpt"), OpenAI.NotFoundError);
  },
};

const ofText = {

  async completions() {
    const asked = { model, prompt: ["One, two,", "A, B,"], max_tokens: 4, temperature: 0, n: 2, logprobs: 1, echo: true };
    const whole = await settled(client.completions, asked);
    const texts = ["", "", "", ""];
    let usage = null;
    for await (const event of await client.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    })) {
      for (const choice of event.choices) texts[choice.index] += choice.text;
      usage = event.usage ?? usage;
    }
    assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    assert.ok(whole.choices[0].logprobs.text_offset.every((offset) => offset >= 0));
  },

  async chat() {
    const asked = { model, messages, temperature: 0, max_completion_tokens: 8, logprobs: true, top_logprobs: 1 };
    const whole = await settled(client.chat.completions, asked);
    const bytes = whole.choices[0].logprobs.content.flatMap((entry) => entry.bytes);
    assert.equal(Buffer.from(bytes).toString(), whole.choices[0].message.content);
    const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
    assert.equal(await stream.finalContent(), whole.choices[0].message.content);
    assert.deepEqual(await stream.totalUsage(), whole.usage);
    let text = "";
    for await (const event of await client.chat.completions.create({ ...asked, stream: true })) {
      text += event.choices[0].delta.content ?? "";
    }
    assert.equal(text, whole.choices[0].message.content);
  },

  async structure() {
    const answer = await client.chat.completions.create({
      model,
      messages,
      temperature: 0,
      response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema: parameters } },
    });
    isWeather(answer.choices[0].message.content);
    const text = { format: { type: "json_schema", name: "weather", strict: true, schema: parameters } };
    isWeather((await client.responses.create({ model, input: messages, temperature: 0, text })).output_text);
    const any = { model, messages, temperature: 0, max_tokens: 200, response_format: { type: "json_object" } };
    const [choice] = (await client.chat.completions.create(any)).choices;
    if (choice.finish_reason === "stop") assert.equal(typeof JSON.parse(choice.message.content), "object");
  },

  async tools() {
    const asked = { model, messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false, temperature: 0 };
    const whole = await settled(client.chat.completions, asked);
    assert.equal(whole.choices[0].finish_reason, "tool_calls");
    const [call] = whole.choices[0].message.tool_calls;
    isWeather(call.function.arguments);
    const streamed = await client.chat.completions.stream(asked).finalMessage();
    assert.equal(streamed.tool_calls[0].function.arguments, call.function.arguments);
    const result = { role: "tool", tool_call_id: call.id, content: "12" };
    const told = await client.chat.completions.create({
      model,
      messages: [...messages, whole.choices[0].message, result],
      max_completion_tokens: 4,
    });
    assert.ok(told.choices[0].message.content);
  },

  async responses() {
    const asked = { model, input: "Say hello.", temperature: 0, max_output_tokens: 8 };
    const whole = await settled(client.responses, asked);
    const streamed = await client.responses.stream(asked).finalResponse();
    assert.equal(streamed.output_text, whole.output_text);
    const types = [];
    for await (const event of await client.responses.create({ ...asked, stream: true })) types.push(event.type);
    assert.deepEqual([types[0], types.at(-1)], ["response.created", "response.incomplete"]);
    const called = await client.responses.create({
      model,
      input: "Weather in Rome?",
      previous_response_id: whole.id,
      tools: [{ type: "function", ...tool.function }],
      tool_choice: { type: "function", name: "get_weather" },
      temperature: 0,
    });
    isWeather(called.output[0].arguments);
    assert.equal((await client.responses.retrieve(whole.id)).id, whole.id);
    await client.responses.delete(whole.id);
    await assert.rejects(client.responses.retrieve(whole.id), OpenAI.NotFoundError);
  },

  async batches() {
    const [chat] = await answered("/v1/chat/completions", { model, messages, max_tokens: 4 });
    assert.equal(chat.object, "chat.completion");
    const [response] = await answered("/v1/responses", { model, input: "One, two,", max_output_tokens: 4 });
    assert.equal(response.object, "response");
    const completions = await answered("/v1/completions", { model, prompt: "A" }, { model, prompt: "B", n: 2 });
    assert.deepEqual(completions.map((completion) => completion.choices.length), [1, 2]);
  },

  async cancelling() {
    const file = await upload("/v1/completions", { model, prompt: "A", max_tokens: 4000, ignore_eos: true });
    const asked = { input_file_id: file.id, endpoint: "/v1/completions", completion_window: "24h" };
    const batch = await client.batches.create({ ...asked, metadata: { which: "this" } });
    const cancelled = await client.batches.cancel(batch.id);
    assert.ok(["cancelling", "cancelled"].includes(cancelled.status));
    assert.deepEqual(cancelled.metadata, { which: "this" });
    await assert.rejects(client.batches.retrieve("batch_none"), OpenAI.NotFoundError);
  },

  async errors() {
    const wrong = client.chat.completions.create({ model, messages, temperature: -1 });
    await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
    const missing = client.chat.completions.create({ model: "gpt", messages });
    await assert.rejects(missing, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  },
};

const ofVectors = {
  async embeddings() {
    const asked = { model, input: ["One, two,", "从前有一个"] };
    const answer = await client.embeddings.create(asked); // it asks for base64 and decodes that
    const numbers = await client.embeddings.create({ ...asked, encoding_format: "float" });
    const bytes = await client.embeddings.create({ ...asked, encoding_format: "base64" });
    assert.deepEqual(answer.data.map((entry) => entry.index), [0, 1]);
    assert.equal(answer.usage.prompt_tokens, answer.usage.total_tokens);
    for (const [i, { embedding }] of answer.data.entries()) {
      const data = Buffer.from(bytes.data[i].embedding, "base64");
      const decoded = Array.from({ length: data.length / 4 }, (_, at) => data.readFloatLE(4 * at));
      for (const other of [embedding, numbers.data[i].embedding, decoded]) {
        assert.equal(other.length, embedding.length);
        const product = other.reduce((sum, value, at) => sum + value * embedding[at], 0);
        assert.ok(Math.abs(product - 1) < 1e-3, `${product}: the same direction, and of length 1`);
      }
    }
    const ids = await client.embeddings.create({ model, input: [5, 6, 7], user: "me" });
    assert.equal(ids.usage.prompt_tokens, 3);
    const cut = client.embeddings.create({ ...asked, dimensions: 2 });
    await assert.rejects(cut, (error) => error instanceof OpenAI.BadRequestError && error.param === "dimensions");
  },

  async batches() {
    const inputs = ["One", ["two", "three"]];
    const lists = await answered("/v1/embeddings", ...inputs.map((input) => ({ model, input })));
    assert.deepEqual(lists.map((list) => list.data.length), [1, 2]);
  },

  async errors() {
    const text = client.chat.completions.create({ model, messages });
    await assert.rejects(text, (error) => error instanceof OpenAI.BadRequestError && error.param === "model");
  },
};

const generates = (await (await fetch(`${url}/get_model_info`)).json()).is_generation;
for (const [name, step] of Object.entries({ ...every, ...(generates ? ofText : ofVectors) })) {
  await step();
  console.log(`${name}: ok`);
}
