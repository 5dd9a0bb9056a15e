"""Clocks of several machines: how far another one is from ours, and records moved from it to ours.

A latency is a difference of two times of one machine, so no clock is in it but that machine's own; moved times only say
which requests were under way together.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from harness.records import ClientHealth, RequestRecord


class Offset(NamedTuple):
    """What must be added to a time of another clock to have it on ours, and how far off that may be."""

    add_s: float
    error_s: float


def offset(exchanges: Iterable[tuple[float, float, float]]) -> Offset:
    """The offset of a clock that was asked for its time (Cristian, Distributed Computing 3, 1989).

    Its answer was given somewhere between our question and its arrival: the quickest exchange says most, and half of
    what it took is the error.

    Args:  exchanges: (question sent, their time, answer received), seconds; the outer two on our clock.
    """
    sent_s, theirs_s, received_s = min(exchanges, key=lambda one: one[2] - one[0])
    return Offset((sent_s + received_s) / 2 - theirs_s, (received_s - sent_s) / 2)


def moved(record: RequestRecord, add_s: float) -> RequestRecord:
    """The record with all its times on another clock."""
    return msgspec.structs.replace(
        record,
        sent_s=record.sent_s + add_s,
        end_s=record.end_s + add_s,
        due_s=None if record.due_s is None else record.due_s + add_s,
        headers_s=None if record.headers_s is None else record.headers_s + add_s,
        chunks_s=tuple(time_s + add_s for time_s in record.chunks_s),
    )


def moved_health(health: ClientHealth, off: Offset) -> ClientHealth:
    """The account with all its times on another clock, and how far these may be off."""
    return msgspec.structs.replace(
        health,
        started_s=health.started_s + off.add_s,
        stopped_s=health.stopped_s + off.add_s,
        ended_s=health.ended_s + off.add_s,
        clock_error_s=off.error_s,
    )
