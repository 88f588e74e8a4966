"""The generated parts of documents: `python -m tests.docs` writes them anew, in every document that has some."""

import re
from collections.abc import Callable, Mapping

from tests.docs import settings, sizing
from tests.docs.pages import documents
from tests.monitoring import document as monitoring

PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings.tables,
    "essential": settings.essential_table,
    "sizing": sizing.table,
    "figures": monitoring.figures,
    "alerts": monitoring.alerts,
}
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """A document with its generated parts as they are now; those of other generators are let be."""
    return _PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3] if found[2] in PARTS else found[0], text)


def main() -> None:
    """Write all documents."""
    for page in documents():
        if (text := page.read_text()) != (now := written(text)):
            page.write_text(now)
