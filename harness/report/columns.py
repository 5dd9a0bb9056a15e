"""Text in columns that line up."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, right: set[int] | frozenset[int] = frozenset()) -> str:
    """Rows with two spaces between columns; those in `right` end together. The last column may run on."""
    plain = [[one_line(text) for text in row] for row in rows]
    widths = [max(len(row[place]) for row in plain) for place in range(len(plain[0]))]
    lines = (
        "  ".join(
            text.rjust(width) if place in right else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in plain
    )
    return "\n".join(line.rstrip() for line in lines)


def one_line(text: str) -> str:
    """Without line breaks and control characters: what an engine logged must not steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
