"""The base of all records, and flags."""

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records. A changed copy is `msgspec.structs.replace`."""


FlagValue = int | float | str | bool


Flags = dict[str, FlagValue]
"""Engine flags by their command-line name without dashes: {"max-num-seqs": 128, "enforce-eager": True}."""
