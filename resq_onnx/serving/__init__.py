"""HTTP server with OpenAI's API: `/v1/chat/completions` and `/v1/completions`.

From the socket inwards: `server` (listening, signals), `app` (routes, one request from its body to
its last byte), `protocol` and `answers` (requests and responses as JSON), `scheduling` (running and
waiting requests), `engine` (from a prompt to work for the batch), `loop` (the thread that owns the
model), `batch` (what runs next), `rows` (where), `writing` (from logits to text). No torch.
"""
