"""OpenAI-compatible inference server for ternary (1.58-bit) language models on CPUs."""
