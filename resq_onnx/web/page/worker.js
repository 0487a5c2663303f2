// Load the model and generate text, in a worker so that the page stays responsive.

import * as ort from "./vendor/ort.mjs";
import { Tokenizer } from "./vendor/tokenizers.mjs";

/** Tokens of a prompt per call: few enough that Stop takes effect soon. */
const SLICE = 64;
const TOP_P = 0.95;
/** A chat template may take; those of today's models take milliseconds. */
const TEMPLATE_SECONDS = 5;
const ARRAYS = { float32: Float32Array, float16: Uint16Array, uint8: Uint8Array };

let manifest, tokenizer, session, decoder, stopped = false;

const tell = (type, rest) => postMessage({ type, ...rest });
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

/** Fetch a file in pieces; `advance` is called with the number of bytes of each. */
async function fetchBytes(address, advance) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: the server answers ${answer.status}`);
  const pieces = [];
  let length = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    length += value.length;
    advance(value.length);
  }
  const bytes = new Uint8Array(length);
  let place = 0;
  for (const piece of pieces) {
    bytes.set(piece, place);
    place += piece.length;
  }
  return bytes;
}

async function fetchJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: the server answers ${answer.status}`);
  return answer.json();
}

async function load() {
  const start = performance.now();
  manifest = await fetchJson("manifest.json");
  const total = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
  let done = 0;
  const advance = (bytes) => {
    done += bytes;
    tell("progress", {
      step: `Loading ${manifest.name}`,
      detail: `${megabytes(done)} of ${megabytes(total)} MB`,
      share: done / total,
    });
  };
  const [config, settings] = await Promise.all([
    fetchJson("model/tokenizer.json"),
    manifest.has_tokenizer_config ? fetchJson("model/tokenizer_config.json") : {},
  ]);
  tokenizer = new Tokenizer(config, settings);
  const files = {};
  for (const { name } of manifest.files) files[name] = await fetchBytes(`model/${name}`, advance);

  tell("progress", { step: "Opening the model", detail: "", share: null });
  const isolated = self.crossOriginIsolated;
  ort.env.wasm.numThreads = isolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.wasm.wasmPaths = new URL("vendor/", self.location.href).href;
  const { [manifest.graph]: graph, ...weights } = files;
  session = await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"],
    externalData: Object.entries(weights).map(([path, data]) => ({ path, data })),
    logSeverityLevel: 3,
    // Dequantise the weights of format web once, not in every run.
    extra: { session: { disable_quant_qdq: "1" } },
  });
  decoder = new Decoder(session);
  tell("ready", {
    name: manifest.name,
    megabytes: megabytes(total),
    threads: ort.env.wasm.numThreads,
    seconds: ((performance.now() - start) / 1000).toFixed(1),
    chat: manifest.chat_template !== null,
  });
}

/** A model and the tokens in its cache; a new text reuses the cache of a common beginning. */
class Decoder {
  constructor(session) {
    this.session = session;
    this.forms = session.inputMetadata.filter(({ name }) => name.startsWith("past_key_values."));
    this.takesPositions = session.inputNames.includes("position_ids");
    this.reset();
  }

  reset() {
    this.ids = [];
    this.past = {};
    for (const { name, type, shape } of this.forms) {
      this.past[name] = new ort.Tensor(type, new ARRAYS[type](0), [1, shape[1], 0, shape[3]]);
    }
  }

  /** Forget all but the first tokens. */
  rewind(length) {
    if (length === 0) return this.reset();
    for (const [name, tensor] of Object.entries(this.past)) {
      const [, heads, tokens, width] = tensor.dims;
      const kept = new ARRAYS[tensor.type](heads * length * width);
      for (let head = 0; head < heads; head++) {
        const row = head * tokens * width;
        kept.set(tensor.data.subarray(row, row + length * width), head * length * width);
      }
      this.past[name] = new ort.Tensor(tensor.type, kept, [1, heads, length, width]);
    }
    this.ids.length = length;
    return undefined;
  }

  /** Read the new tokens of a text; returns their number and the logits after the last one. */
  async read(ids, heard) {
    let known = 0;
    while (known < this.ids.length && known < ids.length - 1 && this.ids[known] === ids[known]) known++;
    if (known < this.ids.length) this.rewind(known);
    let logits = null;
    for (let start = known; start < ids.length; start += SLICE) {
      logits = await this.step(ids.slice(start, start + SLICE));
      if (await heard()) return { read: 0, logits: null };
    }
    return { read: ids.length - known, logits };
  }

  async step(ids) {
    const before = this.ids.length, total = before + ids.length;
    const numbers = (count, make) => BigInt64Array.from({ length: count }, (_, i) => BigInt(make(i)));
    const feeds = {
      input_ids: new ort.Tensor("int64", numbers(ids.length, (i) => ids[i]), [1, ids.length]),
      attention_mask: new ort.Tensor("int64", numbers(total, () => 1), [1, total]),
      ...this.past,
    };
    if (this.takesPositions) {
      feeds.position_ids = new ort.Tensor("int64", numbers(ids.length, (i) => before + i), [1, ids.length]);
    }
    const found = await this.session.run(feeds);
    for (const name of Object.keys(this.past)) {
      this.past[name] = found[name.replace("past_key_values", "present")];
    }
    this.ids.push(...ids);
    const { data, dims } = found.logits;
    return data.subarray(data.length - dims[2]);
  }
}

/** Choose a token: the most likely one, or a sample from the top TOP_P of the probability. */
function choose(logits, temperature) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (!(temperature > 0)) return best;
  const top = logits[best], likely = [];
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const weight = Math.exp((logits[i] - top) / temperature);
    sum += weight;
    if (weight > 1e-5) likely.push([weight, i]);
  }
  likely.sort((a, b) => b[0] - a[0]);
  let kept = 0, count = 0;
  while (count < likely.length && kept < TOP_P * sum) kept += likely[count++][0];
  let draw = Math.random() * kept;
  for (const [weight, i] of likely.slice(0, count)) if ((draw -= weight) <= 0) return i;
  return best;
}

/** Process messages of the page; resolves to whether one of them was Stop. */
function heardStop() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => resolve(stopped);
    port2.postMessage(null);
  });
}

/** Write messages as the text that the model continues. */
function renderChat(messages) {
  return new Promise((resolve, reject) => {
    const renderer = new Worker("template.js", { type: "module" });
    const end = (settle, value) => {
      clearTimeout(timer);
      renderer.terminate();
      settle(value);
    };
    const fail = (reason) => end(reject, new Error(`The model's chat template: ${reason}`));
    const timer = setTimeout(
      () => fail(`it takes longer than ${TEMPLATE_SECONDS} seconds`), 1000 * TEMPLATE_SECONDS);
    renderer.onmessage = ({ data }) => ("text" in data ? end(resolve, data.text) : fail(data.reason));
    renderer.onerror = (event) => fail(event.message || "it does not start");
    const values = { messages, add_generation_prompt: true, ...manifest.special_tokens };
    renderer.postMessage({ source: manifest.chat_template, values });
  });
}

async function promptIds({ messages, text }) {
  if (messages === null) return tokenizer.encode(text).ids;
  return tokenizer.encode(await renderChat(messages), { add_special_tokens: false }).ids;
}

async function generate(asked) {
  stopped = false;
  const ids = await promptIds(asked), stops = new Set(manifest.stop_ids), answer = [];
  const start = performance.now();
  let { read, logits } = await decoder.read(ids, heardStop);
  const middle = performance.now();
  let text = "";
  while (logits !== null && answer.length < asked.length) {
    const token = choose(logits, asked.temperature);
    if (stops.has(token)) break;
    answer.push(token);
    const found = tokenizer.decode(answer, { skip_special_tokens: true });
    if (!found.endsWith("\ufffd")) text = found; // otherwise a character is incomplete
    const speed = answer.length / ((performance.now() - middle) / 1000);
    tell("text", { text, speed: answer.length > 1 ? `${speed.toFixed(1)} tokens/s` : "" });
    logits = await decoder.step([token]);
    if (await heardStop()) break;
  }
  const seconds = (performance.now() - middle) / 1000;
  const prefill = (1000 * read) / (middle - start);
  tell("done", {
    text,
    summary:
      `${answer.length} tokens, ${(answer.length / seconds).toFixed(1)} tokens/s` +
      ` after ${read} of prompt, ${prefill.toFixed(0)} tokens/s${stopped ? "; stopped" : ""}`,
  });
}

let busy = Promise.resolve();
self.onmessage = ({ data }) => {
  if (data.type === "stop") {
    stopped = true;
    return;
  }
  const work = { load, generate }[data.type];
  busy = busy.then(() => work(data)).catch((error) => {
    decoder?.reset();
    tell("failed", { reason: String(error?.message ?? error) });
  });
};
