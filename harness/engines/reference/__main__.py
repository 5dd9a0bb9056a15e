"""The command; __init__.py says what it starts."""

from harness.engines.reference.command import main

main()
