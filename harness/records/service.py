"""Objectives of service, and the largest load inside them."""

from typing import Literal

from harness.records.base import Record
from harness.records.cells import Estimate


class Slo(Record, frozen=True, kw_only=True):
    """ "ttft:p95<500ms": 95 of 100 requests have their first token within half a second."""

    metric: str
    """`ttft_s`, `itl_s` (mean of one answer's gaps), `tpot_s` or `e2e_s`."""
    share: float
    """0.95 for p95: of all requests, failed ones included, at least so many must keep the limit."""
    limit_s: float
    text: str
    """As it was written."""


class CapacityStep(Record, frozen=True, kw_only=True):
    """One level that a search for the capacity tried."""

    level: float
    """Users, or requests per second."""
    requests: int
    kept: Estimate | None
    """Share of the requests that kept every limit, with its Wilson interval. None: there were none."""
    shares: tuple[Estimate, ...] = ()
    """The same for each limit alone, in the order of the SLOs; empty where the figures do not count."""
    is_inside: bool | None
    """None: the interval straddles what the SLO asks."""
    reason: str = ""


class Capacity(Record, frozen=True, kw_only=True):
    """The largest load inside an SLO."""

    unit: Literal["users", "requests/s"]
    slos: tuple[Slo, ...]
    level: float | None
    """The largest level that was shown to be inside. None: not even the smallest one was."""
    above: float | None
    """The smallest level that was shown to be outside. None: none was, the capacity may be larger."""
    is_resolved: bool
    """The two lie as near to one another as was asked."""
    steps: tuple[CapacityStep, ...]
    reason: str = ""
