"""Stands in for vLLM in tests: its command line, its log lines and its failures, around the reference engine."""
