// connect-web in a browser: plays tests/foreign/steps.py, with Subscribe, SyncOnce and unary calls.

import { ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ChatService } from "./gen/hubbub/chat/v1/chat_service_pb.js";
import { HistoryService } from "./gen/hubbub/history/v1/history_service_pb.js";
import { BadRequestSchema, ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { anyUnpack } from "@bufbuild/protobuf/wkt";

const UNARY_TIMEOUT_MS = 10_000;

const script = await (await fetch("/script")).json();
const transport = createGrpcWebTransport({ baseUrl: `http://${script.unary}` });
const chat = createClient(ChatService, transport);
const history = createClient(HistoryService, transport);
const headersOf = (token) => (token ? { authorization: `Bearer ${token}` } : {});

// A stream of Subscribe.
class Session {
  constructor(token, instance, callOptions = {}) {
    this.abort = new AbortController();
    const options = { headers: headersOf(token), signal: this.abort.signal, ...callOptions };
    this.frames = chat.subscribe({ hello: { instanceId: instance } }, options)[Symbol.asyncIterator]();
    this.events = [];
  }

  // Reads until a frame is wanted; keeps all events.
  async expect(isWanted) {
    for (;;) {
      const { value, done } = await this.frames.next();
      if (done) throw new Error("the stream ended");
      this.events.push(...value.frame.events);
      if (isWanted(value.frame.control)) return value.frame;
    }
  }

  control(name) {
    return this.expect((control) => control.case === name).then((frame) => frame.control.value);
  }

  // Reads the heads up to the complete ones.
  async heads() {
    const heads = new Map();
    for (;;) {
      const told = await this.control("heads");
      for (const { cursor } of told.heads) heads.set(cursor.topicId, cursor);
      if (told.complete) return heads;
    }
  }

  // Reads to the end; returns the error, undefined for OK.
  async end() {
    try {
      while (!(await this.frames.next()).done) continue;
    } catch (error) {
      return ConnectError.from(error);
    }
  }
}

let session, head, old, openedMs;

async function openOther(callOptions) {
  const other = new Session(script.token, script.other_instance, callOptions);
  await other.control("welcome");
  return other;
}

function send(token, n) {
  const content = { kind: { case: "text", value: { text: script.texts[n] } } };
  const message = { conversationId: script.conversation, clientMessageId: script.message_ids[n], content };
  return chat.sendMessage(message, { headers: headersOf(token), timeoutMs: UNARY_TIMEOUT_MS });
}

async function peerSends(...which) {
  for (const n of which) await send(script.peer_token, n);
}

// Yields the frames of one request.
async function* sync(cursor) {
  const answer = history.syncOnce({ request: { cursors: [cursor] } }, { headers: headersOf(script.token) });
  for await (const { frame } of answer) yield frame;
}

const textOf = (event) => event.kind.value.message.content.kind.value.text;

function explain(code, message, infos, requests) {
  const field = requests[0]?.fieldViolations[0].field ?? "";
  return { code, message, reason: infos[0]?.reason ?? "", field };
}

const explainEnd = (error) =>
  explain(error.code, error.rawMessage, error.findDetails(ErrorInfoSchema), error.findDetails(BadRequestSchema));

function explainStatus({ code, message, details }) {
  const unpacked = (schema) => details.map((detail) => anyUnpack(detail, schema)).filter((detail) => detail);
  return explain(code, message, unpacked(ErrorInfoSchema), unpacked(BadRequestSchema));
}

const steps = {
  async hello() {
    session = new Session(script.token, script.instance);
    const { heartbeatInterval } = await session.control("welcome");
    const heads = await session.heads();
    [old, head] = [heads.get(script.history), heads.get(script.conversation)];
    return { heartbeat_s: Number(heartbeatInterval.seconds), heads: heads.size };
  },

  async send() {
    const [first, again] = [await send(script.token, 0), await send(script.token, 0)];
    return { number: Number(first.messageNumber), again: Number(again.messageNumber) };
  },

  async receive() {
    await peerSends(1, 2, 3);
    while (session.events.length < 4) await session.expect((control) => !control.case);
    const dense = session.events.every((event, n) => event.position === head.position + BigInt(1 + n));
    head.position = session.events.at(-1).position;
    return { texts: session.events.map(textOf), dense };
  },

  async history() {
    const texts = [];
    for await (const { events, control } of sync({ topicId: script.history, epoch: old.epoch })) {
      for (const event of events) if (event.kind.case === "messageSent") texts.push(textOf(event));
      const caughtUp = control.case === "caughtUp" ? control.value.heads[0].cursor : old;
      if (caughtUp.position !== old.position) throw new Error("caught up to another head");
    }
    const content = new TextEncoder().encode(texts.join(""));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return { messages: texts.length, bytes: content.length, sha256 };
  },

  async deadline() {
    const other = await openOther({ timeoutMs: script.deadline_ms });
    return { code: (await other.end()).code };
  },

  async cancel() {
    const other = await openOther();
    other.abort.abort();
    return { code: (await other.end()).code };
  },

  // Connections are the browser's; a new stream may well be on another one.
  async reconnect() {
    const second = new Session(script.token, script.instance);
    const goodbye = await session.control("goodbye");
    const code = (await session.end())?.code ?? 0;
    await second.heads();
    second.abort.abort();
    await second.end();
    await peerSends(4, 5);
    session = new Session(script.token, script.instance);
    const now = (await session.heads()).get(script.conversation);
    openedMs = Date.now();
    const missed = [];
    for await (const { events } of sync(head)) missed.push(...events.map(textOf));
    return { goodbye: goodbye.reason, code, behind: Number(now.position - head.position), missed };
  },

  async errors() {
    const found = {
      no_token: explainEnd(await new Session("", script.other_instance).end()),
      bad_hello: explainEnd(await new Session(script.token, "no UUID").end()),
    };
    for await (const { control } of sync({ topicId: script.nobody, epoch: head.epoch })) {
      if (control.case === "rejected") found.rejected = explainStatus(control.value.status);
    }
    return found;
  },

  async idle() {
    const { live } = await session.control("heartbeat");
    await new Promise((resolve) => setTimeout(resolve, openedMs + script.idle_ms - Date.now()));
    await peerSends(6);
    const { events } = await session.expect((control) => !control.case);
    session.abort.abort();
    return { live, text: textOf(events[0]) };
  },
};

const tell = (line) => fetch("/line", { method: "POST", body: JSON.stringify(line) });

let failed = false;
for (const [step, play] of Object.entries(steps)) {
  const beganMs = Date.now();
  try {
    const outcome = await play();
    await tell({ step, outcome, seconds: (Date.now() - beganMs) / 1_000 });
  } catch (error) {
    await tell({ step, error: String(error?.stack ?? error) });
    failed = true;
    break;
  }
}
await fetch("/end", { method: "POST", body: failed ? "1" : "0" });
