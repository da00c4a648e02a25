// OpenAI's Node SDK, in the ways that applications use it.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { Agent, fetch as undiciFetch } from "undici";
import { z } from "zod";
import { outcome, play, say, told } from "./program.mjs";

const clientOf = (baseURL, options = {}) => new OpenAI({ baseURL, maxRetries: 0, ...options });
const Tide = z.object({ brought: z.string(), boats: z.number() });

// The next events of a stream, all of them by default.
async function each(stream, count = Infinity) {
  const events = [];
  for await (const event of stream) {
    events.push(event);
    if (events.length === count) break;
  }
  return events;
}

// All the events of an iterator that has begun.
async function rest(iterator) {
  const events = [];
  for (let next = await iterator.next(); !next.done; next = await iterator.next()) events.push(next.value);
  return events;
}

await play({
  async life({ baseURL, body }) {
    const { responses } = clientOf(baseURL);
    const created = await responses.create({ ...body, background: true });
    say(created);
    await told();
    let done = created;
    while (done.status !== "completed") done = await responses.retrieve(created.id);
    const items = await responses.inputItems.list(created.id, { order: "asc", limit: 1 });
    const included = await responses.retrieve(created.id, { include: ["message.output_text.logprobs"] });
    await responses.delete(created.id);
    say([done, done.output_text, items.data, included, await outcome(responses.retrieve(created.id))]);
  },

  async cancel({ baseURL, body }) {
    const { responses } = clientOf(baseURL);
    const created = await responses.create({ ...body, background: true });
    const first = await responses.cancel(created.id);
    say([first, await responses.cancel(created.id), await responses.retrieve(created.id)]);
  },

  async stream({ baseURL, body }) {
    const iterator = (await clientOf(baseURL).responses.create({ ...body, stream: true }))[Symbol.asyncIterator]();
    say((await iterator.next()).value);
    await told();
    say(await outcome(rest(iterator)));
  },

  // Reads some events and goes away; comes back with the number of the last one.
  async resume({ baseURL, body, count }) {
    const { responses } = clientOf(baseURL);
    const stream = await responses.create({ ...body, stream: true });
    say("begun");
    await told();
    const before = await each(stream, count);
    say("left");
    await told();
    const starting_after = before.at(-1).sequence_number;
    const after = responses.retrieve(before[0].response.id, { stream: true, starting_after }).then((tail) => each(tail));
    say([before, await outcome(after)]);
  },

  // The helper, which accumulates, for a response that another stream began.
  async helper_by_id({ baseURL, body, ...cursor }) {
    const { responses } = clientOf(baseURL);
    const stream = await responses.create({ ...body, stream: true });
    const [created] = await each(stream, 1);
    say(created.response.id);
    await told();
    const helper = responses.stream({ response_id: created.response.id, ...cursor });
    const events = await outcome(each(helper));
    say([events, await outcome(helper.finalResponse())]);
  },

  // The helper from every event of a response on; says from where it did not work.
  async helper_from_everywhere({ baseURL, body }) {
    const { responses } = clientOf(baseURL);
    const whole = await each(await responses.create({ ...body, stream: true }));
    const { id, output } = whole.at(-1).response;
    const failed = [];
    for (const { sequence_number: after, type } of whole) {
      const helper = responses.stream({ response_id: id }, { headers: { "Last-Event-ID": String(after) } });
      const events = await outcome(each(helper));
      const final = await outcome(helper.finalResponse());
      const right = final.value && JSON.stringify(final.value.output.map((item) => item.id)) === JSON.stringify(output.map((item) => item.id));
      if (events.raised || !right || final.value.status !== "completed") failed.push([type, events.message, final]);
    }
    say([whole.length, failed]);
  },

  // Says when it has seen an event of the type `first`.
  async helper({ baseURL, body, first = "response.created" }) {
    const helper = clientOf(baseURL).responses.stream(body);
    const events = [];
    const final = outcome(helper.finalResponse());
    const seen = new Promise((resolve) => {
      helper.on("event", (event) => {
        events.push(event);
        if (event.type === first) resolve();
      });
    });
    await seen;
    say(events[0].response.id);
    await told();
    say([await final, events]);
  },

  async parse({ baseURL, body, headers = {} }) {
    const format = { text: { format: zodTextFormat(Tide, "tide") } };
    const parsed = await clientOf(baseURL).responses.parse({ ...body, ...format }, { headers });
    say([parsed.status, parsed.output_parsed]);
  },

  async raw({ baseURL, body }) {
    const { responses } = clientOf(baseURL);
    const { data, response, request_id } = await responses.create({ ...body, background: true }).withResponse();
    const bytes = await responses.retrieve(data.id, { include: ["message.output_text.logprobs"] }).asResponse();
    const names = ["content-type", "openai-organization", "openai-version", "x-ratelimit-remaining-tokens"];
    const headers = names.map((name) => response.headers.get(name));
    say([data, headers, request_id === response.headers.get("x-request-id"), await bytes.text()]);
  },

  async errors({ baseURL, bodies }) {
    const { responses } = clientOf(baseURL);
    const refused = [];
    for (const body of bodies) refused.push(await outcome(responses.create(body)));
    const missing = "resp_0000";
    refused.push(await outcome(responses.retrieve(missing)));
    refused.push(await outcome(responses.retrieve(missing, { stream: true, starting_after: 3 })));
    refused.push(await outcome(responses.cancel(missing)), await outcome(responses.delete(missing)));
    say(refused);
  },

  // What is no response: a conversation, a count, a compaction.
  async others({ baseURL }) {
    const client = clientOf(baseURL);
    const items = [{ type: "message", role: "user", content: "What did the tide bring?" }];
    const made = await client.conversations.create({ items, metadata: { tide: "high" } });
    const updated = await client.conversations.update(made.id, { metadata: { tide: "low" } });
    const added = await client.conversations.items.create(made.id, { items });
    const listed = await client.conversations.items.list(made.id, { limit: 1, order: "asc" });
    const counted = await client.responses.inputTokens.count({ model: "gpt-5.2", input: items });
    const compacted = await client.responses.compact({ model: "gpt-5.2", input: items });
    const gone = await client.conversations.delete(made.id);
    const missing = await outcome(client.conversations.retrieve(made.id));
    say([made, updated, added, listed.data, counted, compacted, gone, missing]);
  },

  async retries({ baseURL, body }) {
    say(await clientOf(baseURL, { maxRetries: 2 }).responses.create({ ...body, background: true }));
  },

  // Sends its create again until it has an answer; of a stream, all events. `timeout` is in milliseconds.
  async sent_again({ baseURL, body, timeout }) {
    const made = await outcome(clientOf(baseURL, { maxRetries: 9, timeout }).responses.create(body));
    say(body.stream && made.value ? await outcome(each(made.value)) : made);
  },

  // A client that gives up after so long without a byte, as every fetch of Node does after five minutes.
  async silence({ baseURL, body, patience_ms }) {
    const fetchOptions = { dispatcher: new Agent({ bodyTimeout: patience_ms }) };
    const client = clientOf(baseURL, { fetch: undiciFetch, fetchOptions });
    const stream = await client.responses.create({ ...body, stream: true });
    const iterator = stream[Symbol.asyncIterator]();
    say((await iterator.next()).value);
    say(await outcome(rest(iterator)));
  },
});
