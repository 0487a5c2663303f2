"""The original model on disk: a Hugging Face directory or a .gguf file."""
