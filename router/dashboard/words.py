"""How the dashboard says moments, lengths of time, amounts and untrusted texts. Pure."""

import re
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

LONGEST = 120
"""Characters of a name that are shown; the rest is told on asking."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
"""What would hide in a text, or turn its direction."""


def cleaned(text: object) -> str:
    """Text from outside, without what cannot be seen."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def short(text: object, longest: int = LONGEST) -> Markup:
    """An untrusted text, on one line and not too long; a longer one shows more of itself under the pointer."""
    whole = cleaned(text).replace("\n", " ")
    if len(whole) <= longest:
        return escape(whole)
    told = whole[: 4 * longest] + ("…" if len(whole) > 4 * longest else "")
    return Markup('<span title="{}">{}…</span>').format(told, whole[: longest - 1])


def lasting(seconds: float | timedelta | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return ""
    left = max(0, round(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds))
    told: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or told:
            told.append(f"{count} {unit}")
        if len(told) == 2:
            break
    return " ".join(each for each in told if not each.startswith("0 ")) or "0 s"


def size(count: float | None) -> str:
    """An amount of bytes."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"


def counted(number: int, word: str) -> str:
    """A number of things."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def moment(at: datetime | None, kind: str = "at") -> Markup:
    """A moment, which the page's script shows in the reader's own time; `kind`: `at`, or `ago` for how long ago."""
    if at is None:
        return Markup("")
    utc = at.astimezone(UTC)
    told = utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-{}>{}</time>').format(utc.isoformat(), kind, told)
