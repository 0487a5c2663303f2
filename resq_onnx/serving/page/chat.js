// The chat page of `resq-onnx serve`: asks the server that it comes from, by its HTTP API alone.
// What a model writes is shown as text, never as HTML.

import { events } from "./events.js";

const element = (id) => document.getElementById(id);
const messages = element("messages"), prompt = element("prompt"), send = element("send");

/** The conversation so far, without the instructions. */
let conversation = [];
/** Ends the request that is running; null if there is none. */
let running = null;
let model = "";

function headers() {
  const key = element("key").value.trim();
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function refusal(response) {
  const found = await response.json().catch(() => null);
  return found?.error?.message ?? `the server answers with status ${response.status}`;
}

async function connect() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) {
    element("more").open = response.status === 401;
    element("facts").textContent = await refusal(response);
    document.body.dataset.state = "refused";
    return;
  }
  const [{ id, max_model_len: tokens }] = (await response.json()).data;
  model = document.title = element("name").textContent = id;
  element("facts").textContent = `runs on this server, with up to ${tokens} tokens`;
  const length = element("length");
  length.max = tokens;
  if (Number(length.value) > tokens) length.value = "";  // a form with such a number is not sent
  document.body.dataset.state = "ready";
}

function add(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  messages.append(node);
  messages.scrollTop = messages.scrollHeight;
  return node;
}

function request() {
  const system = element("system").value.trim(), seed = element("seed").value;
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
    temperature: Number(element("temperature").value),
    top_p: Number(element("top-p").value),
    max_tokens: Number(element("length").value) || undefined,
    seed: seed === "" ? undefined : Number(seed),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** Let the model write the next message of the conversation, into a bubble of its own. */
async function answer() {
  const bubble = add("div", "message assistant writing", "");
  const begun = performance.now();
  let text = "", pieces = 0, tokens = 0, first = 0, failure = "";
  running = new AbortController();
  send.textContent = "Stop";
  document.body.dataset.state = "writing";
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(request()), signal: running.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      tokens = event.usage?.completion_tokens ?? tokens;
      const piece = event.choices[0]?.delta.content;
      if (!piece) continue;
      first ||= performance.now();
      text += piece;
      pieces += 1;
      show(bubble, text);
      element("status").textContent = speed(pieces, first);
    }
  } catch (error) {
    if (error.name !== "AbortError") failure = error.message;
  }
  bubble.classList.remove("writing");
  running = null;
  finish(bubble, text, failure, failure ? "" : summary(tokens || pieces, begun, first));
}

function show(bubble, text) {
  const follows = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 60;
  bubble.textContent = text.trimStart();
  if (follows) messages.scrollTop = messages.scrollHeight;
}

function speed(tokens, first) {
  const seconds = (performance.now() - first) / 1000;
  return tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
}

function summary(tokens, begun, first) {
  const words = tokens === 1 ? "1 token" : `${tokens} tokens`;
  const wait = first ? `first after ${((first - begun) / 1000).toFixed(2)} s` : "";
  return [words, first && speed(tokens, first), wait].filter(Boolean).join(", ");
}

function finish(bubble, text, failure, said) {
  if (text) conversation.push({ role: "assistant", content: text });
  else bubble.remove();
  if (failure) add("p", "message error", failure);
  const line = add("p", "measure", said);
  const again = document.createElement("button");
  again.type = "button";
  again.className = "again";
  again.textContent = failure ? "Try again" : "Regenerate";
  again.addEventListener("click", regenerate);
  line.append(again);
  send.textContent = "Send";
  element("status").textContent = "";
  document.body.dataset.state = "ready";
  prompt.focus();
}

/** Forget the last answer, or what was said of a failure, and ask again. */
function regenerate() {
  if (running) return;
  if (conversation.at(-1)?.role === "assistant") conversation.pop();
  while (messages.lastChild && !messages.lastChild.classList.contains("user")) {
    messages.lastChild.remove();
  }
  answer();
}

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = prompt.value.trim();
  if (!text) return undefined;
  prompt.value = "";
  fit();
  for (const button of messages.querySelectorAll(".again")) button.remove();
  conversation.push({ role: "user", content: text });
  add("div", "message user", text);
  return answer();
});

prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) element("composer").requestSubmit();
  }
});

element("new").addEventListener("click", () => {
  if (running) return;
  conversation = [];
  messages.replaceChildren();
  prompt.focus();
});

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}
prompt.addEventListener("input", fit);

for (const [name, digits] of [["temperature", 1], ["top-p", 2]]) {
  const tell = () => {
    element(`${name}-value`).textContent = Number(element(name).value).toFixed(digits);
  };
  element(name).addEventListener("input", tell);
  tell();
}

// The key stays in this tab: it survives a reload, and nothing else.
element("key").value = sessionStorage.getItem("key") ?? "";
element("key").addEventListener("change", () => {
  sessionStorage.setItem("key", element("key").value);
  connect();
});
connect();
