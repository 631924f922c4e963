// @grpc/grpc-js (Node.js): plays tests/foreign/steps.py.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const UNARY_TIMEOUT_MS = 10_000;

const script = JSON.parse(readFileSync(0, "utf8"));
const files = ["hubbub/chat/v1/chat_service.proto", "hubbub/history/v1/history_service.proto"];
const options = { keepCase: true, longs: Number, defaults: false, oneofs: true, includeDirs: [script.proto] };
const { chat, history } = grpc.loadPackageDefinition(protoLoader.loadSync(files, options)).hubbub;
const details = new protobuf.Root();
details.resolvePath = (_, file) => `${script.proto}/${file}`;
details.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

function metadataOf(token) {
  const metadata = new grpc.Metadata();
  if (token) metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

// A pool of one's own is a connection of one's own.
const connect = (service, address) =>
  new service(address, grpc.credentials.createInsecure(), { "grpc.use_local_subchannel_pool": 1 });

// A call that is read frame by frame; `ended` is its status.
class Frames {
  constructor(call) {
    this.call = call;
    this.ended = new Promise((resolve) => call.on("status", resolve));
    call.on("error", () => {}); // the status says it too
    this.frames = call[Symbol.asyncIterator]();
  }

  // The next frame, undefined at the end.
  async next() {
    try {
      return (await this.frames.next()).value?.frame;
    } catch {
      return undefined;
    }
  }

  async end() {
    while (await this.next()) continue;
    return await this.ended;
  }
}

// A stream of Connect.
class Session extends Frames {
  constructor(client, token, callOptions = {}) {
    super(client.Connect(metadataOf(token), callOptions));
    this.client = client;
    this.events = [];
  }

  hello(instance) {
    this.call.write({ hello: { instance_id: instance } });
  }

  // Reads until a frame is wanted; keeps all events.
  async expect(isWanted) {
    for (let frame; (frame = await this.next()); ) {
      this.events.push(...(frame.events ?? []));
      if (isWanted(frame)) return frame;
    }
    throw new Error(`the stream ended: ${(await this.ended).details}`);
  }

  // Reads the heads up to the complete ones.
  async heads() {
    const heads = new Map();
    for (;;) {
      const { heads: told } = await this.expect((frame) => frame.heads);
      for (const { cursor } of told.heads ?? []) heads.set(cursor.topic_id, cursor);
      if (told.complete) return heads;
    }
  }
}

const unary = connect(chat.v1.ChatService, script.unary);
let session, head, old, openedMs;

// Opens the session on a new connection.
function open() {
  const opened = new Session(connect(chat.v1.ChatService, script.streams), script.token);
  opened.hello(script.instance);
  return opened;
}

// Opens a session beside it and waits for Welcome.
async function openOther(callOptions) {
  const other = new Session(session.client, script.token, callOptions);
  other.hello(script.other_instance);
  await other.expect((frame) => frame.welcome);
  return other;
}

const message = (n) => ({
  conversation_id: script.conversation,
  client_message_id: script.message_ids[n],
  content: { text: { text: script.texts[n] } },
});

async function peerSends(...which) {
  for (const n of which) {
    const deadline = Date.now() + UNARY_TIMEOUT_MS;
    await new Promise((resolve, reject) =>
      unary.SendMessage(message(n), metadataOf(script.peer_token), { deadline }, (error, answer) =>
        error ? reject(error) : resolve(answer),
      ),
    );
  }
}

// Yields the frames of one request.
async function* sync(cursor) {
  const client = new history.v1.HistoryService(script.streams, null, { channelOverride: session.client.getChannel() });
  const frames = new Frames(client.Sync(metadataOf(script.token)));
  frames.call.write({ cursors: [cursor] });
  frames.call.end();
  for (let frame; (frame = await frames.next()); ) yield frame;
  const { code, details: text } = await frames.ended;
  if (code !== 0) throw new Error(`Sync ended with ${code}: ${text}`);
}

const textOf = (event) => event.message_sent.message.content.text.text;

function explain({ code, message: text, details: packed }) {
  let reason = "";
  let field = "";
  for (const { type_url, value } of packed ?? []) {
    const name = type_url.split("/")[1];
    const detail = details.lookupType(name).decode(value);
    if (name === "google.rpc.ErrorInfo") reason = detail.reason;
    if (name === "google.rpc.BadRequest") field = detail.fieldViolations[0].field;
  }
  return { code, message: text, reason, field };
}

function explainEnd({ code, details: text, metadata }) {
  const [raw] = metadata.get("grpc-status-details-bin");
  const status = raw ? details.lookupType("google.rpc.Status").decode(raw) : {};
  const packed = (status.details ?? []).map((any) => ({ type_url: any.type_url ?? any.typeUrl, value: any.value }));
  return explain({ code, message: text, details: packed });
}

const steps = {
  async hello() {
    session = open();
    const { welcome } = await session.expect((frame) => frame.welcome);
    const heads = await session.heads();
    [old, head] = [heads.get(script.history), heads.get(script.conversation)];
    return { heartbeat_s: welcome.heartbeat_interval.seconds, heads: heads.size };
  },

  async send() {
    const numbers = [];
    for (const request_id of ["first", "again"]) {
      session.call.write({ command: { request_id, send_message: message(0) } });
      const { reply } = await session.expect((frame) => frame.reply);
      numbers.push(reply.send_message.message_number);
    }
    return { number: numbers[0], again: numbers[1] };
  },

  async receive() {
    await peerSends(1, 2, 3);
    while (session.events.length < 4) await session.expect((frame) => frame.events?.length);
    const dense = session.events.every((event, n) => event.position === head.position + 1 + n);
    head.position = session.events.at(-1).position;
    return { texts: session.events.map(textOf), dense };
  },

  async history() {
    const digest = createHash("sha256");
    let [messages, bytes] = [0, 0];
    for await (const frame of sync({ topic_id: script.history, epoch: old.epoch })) {
      for (const event of frame.events ?? []) {
        if (!event.message_sent) continue;
        const text = Buffer.from(textOf(event));
        messages += 1;
        bytes += text.length;
        digest.update(text);
      }
      const caughtUp = frame.caught_up?.heads[0].cursor;
      if (caughtUp && caughtUp.position !== old.position) throw new Error("caught up to another head");
    }
    return { messages, bytes, sha256: digest.digest("hex") };
  },

  async deadline() {
    const other = await openOther({ deadline: Date.now() + script.deadline_ms });
    return { code: (await other.end()).code };
  },

  async cancel() {
    const other = await openOther();
    other.call.cancel();
    return { code: (await other.end()).code };
  },

  async reconnect() {
    const second = open();
    const { goodbye } = await session.expect((frame) => frame.goodbye);
    const { code } = await session.end();
    session.client.close();
    await second.heads();
    second.call.cancel(); // `close` alone waits for calls
    second.client.close();
    await peerSends(4, 5);
    session = open();
    const now = (await session.heads()).get(script.conversation);
    openedMs = Date.now();
    const missed = [];
    for await (const frame of sync(head)) missed.push(...(frame.events ?? []).map(textOf));
    return { goodbye: goodbye.reason, code, behind: now.position - head.position, missed };
  },

  async errors() {
    const noToken = new Session(session.client, "");
    const badHello = new Session(session.client, script.token);
    badHello.hello("no UUID");
    const found = { no_token: explainEnd(await noToken.end()), bad_hello: explainEnd(await badHello.end()) };
    for await (const { rejected } of sync({ topic_id: script.nobody, epoch: head.epoch })) {
      if (rejected) found.rejected = explain(rejected.status);
    }
    return found;
  },

  async idle() {
    const { heartbeat } = await session.expect((frame) => frame.heartbeat);
    session.call.write({ ack: { processed_events: session.events.length } });
    await sleep(openedMs + script.idle_ms - Date.now());
    await peerSends(6);
    const { events } = await session.expect((frame) => frame.events?.length);
    session.call.end();
    return { live: heartbeat.live, text: textOf(events[0]) };
  },
};

for (const [step, play] of Object.entries(steps)) {
  const beganMs = Date.now();
  try {
    const outcome = await play();
    console.log(JSON.stringify({ step, outcome, seconds: (Date.now() - beganMs) / 1_000 }));
  } catch (error) {
    console.log(JSON.stringify({ step, error: String(error?.stack ?? error) }));
    process.exit(1);
  }
}
process.exit(0);
