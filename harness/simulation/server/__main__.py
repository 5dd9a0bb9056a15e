"""The command; __init__.py says what it starts."""

import sys

from harness.simulation.server.program import main

sys.exit(main())
