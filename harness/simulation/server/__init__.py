"""The simulated vLLM as a server: its scheduler in real time behind vLLM's API, command line, log and failures.

    python -m harness.simulation.server --gpu h100 --model-shape qwen2.5-1.5b --model m --port 8000 --max-num-seqs 64

Whole commands are so tried without a GPU: with --stand-in FOLDER it writes FOLDER/bin/python, which takes the place of
vLLM's interpreter (`harness bench --engine vllm --vllm-python FOLDER/bin/python`). Steps take as long as the simulation
says, on a clock that --speed makes faster. Nothing it gives is a measurement, so its version, its log and its metrics
say that it is simulated. Answers are plain words, a token each, and never end before their limit.
"""
