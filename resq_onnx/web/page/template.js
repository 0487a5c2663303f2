// A chat template, run once. In a worker of its own, which can be ended: a template is a program.

import { Template } from "./vendor/jinja.mjs";

self.onmessage = ({ data: { source, values } }) => {
  try {
    postMessage({ text: new Template(source).render(values) });
  } catch (error) {
    postMessage({ reason: String(error?.message ?? error) });
  }
};
