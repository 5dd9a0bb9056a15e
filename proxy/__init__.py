"""Ollama's HTTP API in front of vLLM: clients ask Ollama's questions, vLLM answers them.

Usable without the harness: `python -m proxy --upstream http://127.0.0.1:8000`. `README.md` beside this file is the
contract: every endpoint, what is mapped, ignored and refused, and every known deviation with its reason.
"""
