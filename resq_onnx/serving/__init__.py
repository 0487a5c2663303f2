"""HTTP server with OpenAI's API: `/v1/chat/completions` and `/v1/completions`.

From the socket inwards: `server` (listening, signals), `app` (routes, one request from its body to
its last byte), `protocol` and `answers` (requests and responses as JSON), `scheduling` (running and
waiting requests), `engine` (from a prompt to pieces of text). It needs no torch.
"""
