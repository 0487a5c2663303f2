"""An exported model behind OpenAI's HTTP interface: `/v1/chat/completions` and `/v1/completions`.

From the socket inwards: `server` (listening, signals), `app` (routes, one request from its body to
its last byte), `protocol` and `answers` (what comes and goes as JSON), `scheduling` (how many run,
how many wait), `engine` (from a prompt to pieces of text). All of it does without torch.
"""
