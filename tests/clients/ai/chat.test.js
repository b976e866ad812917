// The AI SDK, by changing its URL. SmolLM2 answers; where it is too small to call a tool by
// itself, a scripted model stands in (`double`).

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  Output,
  generateText,
  isStepCount,
  streamText,
  tool,
} from "ai";
import { z } from "zod";

const MODEL = "SmolLM2-135M-Instruct";
const QUESTION = "What is the capital of France?";
const ANSWER = "The capital of France is Paris.";

const provider = (url) =>
  createOpenAICompatible({
    name: "pomona",
    baseURL: `${url}/v1`,
    apiKey: "none",
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const small = provider(process.env.POMONA_CLIENTS_URL)(MODEL);
const able = provider(process.env.POMONA_DOUBLE_URL)("double");
const settings = { model: small, temperature: 0, maxRetries: 0 };

const weather = (execute) =>
  tool({
    description: "Weather of a city.",
    inputSchema: z.object({ city: z.string().max(12) }),
    execute,
  });

test("text comes whole and streamed, and is counted the same", async () => {
  const whole = await generateText({ ...settings, prompt: QUESTION });
  assert.equal(whole.text, ANSWER);
  assert.equal(whole.finishReason, "stop");
  const streamed = streamText({ ...settings, prompt: QUESTION });
  const parts = await Array.fromAsync(streamed.textStream);
  assert.equal(parts.join(""), ANSWER);
  assert.ok(parts.length > 1);
  const usage = await streamed.usage;
  assert.equal(usage.outputTokens, whole.usage.outputTokens);
  assert.ok(usage.inputTokens > 0);
});

test("a system prompt changes the answer", async () => {
  const asked = { ...settings, prompt: "What is your name?", maxOutputTokens: 8 };
  const plain = await generateText(asked);
  const told = await generateText({ ...asked, instructions: "Your name is Bob." });
  assert.notEqual(plain.text, told.text);
});

test("a required call streams in pieces, held by a grammar", async () => {
  const streamed = streamText({
    ...settings,
    prompt: "What is the weather in Rome?",
    tools: { weather: weather() },
    toolChoice: "required",
    maxOutputTokens: 100,
  });
  const parts = await Array.fromAsync(streamed.fullStream);
  const begun = parts.filter((part) => part.type === "tool-input-start");
  const first = parts.filter(
    (part) => part.type === "tool-input-delta" && part.id === begun[0].id,
  );
  const [call] = await streamed.toolCalls;
  assert.equal(begun[0].toolName, "weather");
  assert.ok(first.length > 2);
  assert.deepEqual(JSON.parse(first.map((part) => part.delta).join("")), call.input);
  assert.equal(await streamed.finishReason, "tool-calls");
});

test("an able model calls, reads the result and answers", async () => {
  const seen = [];
  const tools = { weather: weather(({ city }) => seen.push(city) && "sunny") };
  const asked = {
    model: able,
    maxRetries: 0,
    prompt: "What is the weather in Rome?",
    tools,
    stopWhen: isStepCount(3),
  };
  assert.equal((await generateText(asked)).text, "It is sunny in Rome.");
  assert.equal(await streamText(asked).text, "It is sunny in Rome.");
  assert.deepEqual(seen, ["Rome", "Rome"]);
});

test("an object has the schema that was asked for", async () => {
  const schema = z.object({ colour: z.enum(["red", "green"]), sure: z.boolean() });
  const asked = {
    ...settings,
    prompt: "Is grass red or green? Are you sure?",
    output: Output.object({ schema }),
  };
  schema.parse((await generateText(asked)).output);
  const streamed = streamText(asked);
  const parts = await Array.fromAsync(streamed.partialOutputStream);
  schema.parse(parts.at(-1));
});

test("errors are its own, and say what is wrong", async () => {
  const refused = generateText({ ...settings, temperature: 9, prompt: QUESTION });
  await assert.rejects(refused, (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /temperature/);
    return true;
  });
  const missing = { ...settings, model: provider(process.env.POMONA_CLIENTS_URL)("no/such") };
  await assert.rejects(generateText({ ...missing, prompt: QUESTION }), { statusCode: 404 });
});
