// Vercel's AI SDK. It has no background mode: a `fetch` of the application's own asks for it, and nothing polls.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";
import { outcome, play, say, told } from "./program.mjs";

const prompt = "What did the tide bring?";

function modelOf(baseURL, metadata, headers = {}) {
  const inBackground = (url, init) => {
    const body = JSON.stringify({ ...JSON.parse(init.body), metadata, background: true });
    return fetch(url, { ...init, body });
  };
  return createOpenAI({ baseURL, apiKey: "sk-test", headers, fetch: inBackground }).responses("gpt-5.2");
}

await play({
  // One answer with each of these sets of headers.
  async generate({ baseURL, scenario, tries, maxRetries = 0 }) {
    for (const headers of tries) {
      const { text } = await generateText({ model: modelOf(baseURL, scenario, headers), prompt, maxRetries });
      say({ text });
    }
  },

  // Says when it has begun; then all its parts. `options` are streamText's.
  async stream({ baseURL, scenario, options = {} }) {
    const model = modelOf(baseURL, scenario);
    const result = streamText({ model, prompt, maxRetries: 0, onError() {}, ...options }); // begins at once
    say("begun");
    await told();

    const errors = [];
    let text = "";
    let finishReason = null;
    const read = async () => {
      for await (const part of result.fullStream) {
        if (part.type === "text-delta") text += part.text;
        if (part.type === "error") errors.push(part.error.message);
        if (part.type === "abort") finishReason = part.type;
        if (part.type === "finish") finishReason = part.finishReason;
      }
    };
    say({ ...(await outcome(read())), text, errors, finishReason });
  },
});
