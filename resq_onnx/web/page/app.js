// User interface of the chat page: shows the worker's messages and sends it requests.

const element = (id) => document.getElementById(id);
const messages = element("messages"), prompt = element("prompt"), send = element("send");
const worker = new Worker("worker.js", { type: "module" });

/** The conversation so far, in the form that a chat template expects. */
let conversation = [];
/** The bubble of the answer that is being generated, or null. */
let writing = null;
let chats = true;

const handlers = {
  progress({ step, detail, share }) {
    element("step").textContent = step;
    element("detail").textContent = detail || "\u00a0";
    if (share === null) element("progress").removeAttribute("value");
    else element("progress").value = share;
  },

  ready({ name, megabytes, threads, seconds, chat }) {
    chats = chat;
    document.title = name;
    element("name").textContent = name;
    const words = threads === 1 ? "1 thread" : `${threads} threads`;
    element("facts").textContent =
      `${megabytes} MB, ${words}, opened in ${seconds} s; nothing you write leaves this browser`;
    element("loading").remove();
    element("new").hidden = false;
    prompt.placeholder = chat ? "Ask something" : "Begin a text";
    prompt.disabled = send.disabled = false;
    prompt.focus();
    document.body.dataset.state = "ready";
    const asked = new URLSearchParams(location.search).get("prompt");
    if (asked) submit(asked);
  },

  text({ text, speed }) {
    writing.textContent = text.trimStart();
    element("status").textContent = speed;
    messages.scrollTop = messages.scrollHeight;
  },

  done({ text, summary }) {
    if (chats) conversation.push({ role: "assistant", content: text });
    writing.textContent = text.trimStart();
    writing.classList.remove("writing");
    add("p", "measure", summary);
    finish();
  },

  failed({ reason }) {
    element("loading")?.remove();
    if (writing) writing.remove();
    add("p", "message error", reason);
    finish();
    document.body.dataset.state = "failed";
  },
};

worker.onmessage = ({ data }) => handlers[data.type](data);
worker.onerror = (event) =>
  handlers.failed({ reason: `This browser cannot run the page: ${event.message || "the worker did not start"}` });

function add(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  messages.append(node);
  messages.scrollTop = messages.scrollHeight;
  return node;
}

function submit(text) {
  if (chats) conversation.push({ role: "user", content: text });
  add("div", "message user", text);
  writing = add("div", "message assistant writing", "");
  send.textContent = "Stop";
  document.body.dataset.state = "writing";
  worker.postMessage({
    type: "generate",
    messages: chats ? conversation : null,
    text,
    temperature: Number(element("temperature").value),
    length: Number(element("length").value),
  });
}

function finish() {
  writing = null;
  send.textContent = "Send";
  element("status").textContent = "";
  document.body.dataset.state = "ready";
  prompt.focus();
}

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing) return worker.postMessage({ type: "stop" });
  const text = prompt.value.trim();
  if (!text || send.disabled) return undefined;
  prompt.value = "";
  fit();
  return submit(text);
});

prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!writing) element("composer").requestSubmit();
  }
});

element("new").addEventListener("click", () => {
  worker.postMessage({ type: "stop" });
  conversation = [];
  for (const node of messages.querySelectorAll(".message:not(.writing), .measure")) node.remove();
});

function fit() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}
prompt.addEventListener("input", fit);

for (const name of ["temperature", "length"]) {
  const given = new URLSearchParams(location.search).get(name);
  if (given !== null) element(name).value = given;
}
const showTemperature = () => {
  element("temperature-value").textContent = Number(element("temperature").value).toFixed(1);
};
element("temperature").addEventListener("input", showTemperature);
showTemperature();
worker.postMessage({ type: "load" });
