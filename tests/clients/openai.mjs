// SPDX-License-Identifier: Apache-2.0
// Conformance: OpenAI's client for node over every text endpoint of a running server, streamed and not.
//
//     npm install --no-save openai@7 && node tests/clients/openai.mjs http://127.0.0.1:30000
//
// `--check` in place of the address says by its exit code whether the client is installed.

import assert from "node:assert/strict";
import OpenAI from "openai";

if (process.argv[2] === "--check") process.exit(0);

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "EMPTY", maxRetries: 0 });
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

const steps = {
  async models() {
    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    assert.equal(ids.length, 1);
    assert.equal((await client.models.retrieve(ids[0])).id, ids[0]);
  },

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
    const stream = client.chat.completions.stream(asked);
    assert.equal(await stream.finalContent(), whole.choices[0].message.content);
  },

  async structure() {
    const answer = await client.chat.completions.create({
      model,
      messages,
      temperature: 0,
      response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema: parameters } },
    });
    isWeather(answer.choices[0].message.content);
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
  },

  async batches() {
    const body = { model, messages, max_tokens: 4 };
    const line = { custom_id: "one", method: "POST", url: "/v1/chat/completions", body };
    const upload = new File([JSON.stringify(line)], "in.jsonl");
    const file = await client.files.create({ file: upload, purpose: "batch" });
    const asked = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" };
    let batch = await client.batches.create(asked);
    while (batch.status !== "completed") {
      assert.ok(!["failed", "expired"].includes(batch.status), batch.status);
      await new Promise((resolve) => setTimeout(resolve, 100));
      batch = await client.batches.retrieve(batch.id);
    }
    const told = JSON.parse(await (await client.files.content(batch.output_file_id)).text());
    assert.equal(told.response.body.object, "chat.completion");
    await client.files.delete(file.id);
    await client.files.delete(batch.output_file_id);
  },

  async errors() {
    const wrong = client.chat.completions.create({ model, messages, temperature: -1 });
    await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
    const missing = client.chat.completions.create({ model: "gpt", messages });
    await assert.rejects(missing, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log(`${name}: ok`);
}
