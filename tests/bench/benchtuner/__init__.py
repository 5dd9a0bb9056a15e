"""The parts of `tuner_bench.py`: surfaces whose optimum is known, searches that race on them, and what came of it."""
