"""The pieces of `proxy_bench.py`: a mock upstream, a client, a bare relay, and what starts, times and judges them."""
