"""Finds the vllm serve settings that make a model fastest on a card, and proves it against Ollama."""

__version__ = "0.1.0"
