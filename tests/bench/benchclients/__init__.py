"""The pieces of `clients_bench.py`: how each client is started and read, what it costs, and what the bars say of it."""
