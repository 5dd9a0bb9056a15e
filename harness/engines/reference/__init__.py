"""A server of exactly known timing that speaks the APIs of vLLM and of Ollama.

What a client measures against it is the client's own bias. It answers with tokens on an absolute
timetable: request received → TTFT → first token, then one every ITL. GET /times tells when each
chunk was really handed to the kernel, so a late server is not taken for a slow client. On demand
answers go wrong, in the ways of `plan.Fault`.

    python -m harness.engines.reference --port 0 --ttft-s 0.2 --itl-s 0.02 --tokens 100
"""
