"""Speed of servers under load: ours, llama.cpp's, and onnxruntime-genai behind a small one.

From the inside out: `connection` (one HTTP request), `clients` (when they ask), `figures` (what
their answers say), `servers` (who is asked), `__main__` (all of them in turn).
"""
