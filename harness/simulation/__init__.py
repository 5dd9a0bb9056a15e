"""vLLM without a GPU: its scheduler as a discrete-event simulation, timed by a roofline and what a host adds.

`Machine` launches `Server`s, `drive` puts a cell's load on one in virtual time and writes what Locust would have
written. `scheduler` knows no clock, so a server in real time can use the same.
"""

from harness.simulation.drive import drive
from harness.simulation.machine import Crashed, Machine, Server, Stalled
from harness.simulation.settings import Refused

__all__ = ["Crashed", "Machine", "Refused", "Server", "Stalled", "drive"]
