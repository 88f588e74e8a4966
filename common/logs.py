"""One log format for every program, and no token in any line (I9)."""

import logging
import re

_SECRETS = re.compile(r"(?i)((?:[?&]|\b)(?:token|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^&\s\"']+")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")


def scrubbed(text: str) -> str:
    """`text` with the values of tokens and URL signatures blotted out."""
    return _BEARER.sub(r"\1***", _SECRETS.sub(r"\1***", text))


class _Scrubbing(logging.Formatter):
    """Scrubs the finished line, so that arguments and tracebacks are covered too."""

    def format(self, record: logging.LogRecord) -> str:
        return scrubbed(super().format(record))


def start_logging(level: str = "INFO") -> None:
    """Log to standard error, one line a record, scrubbed."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Scrubbing("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # httpx logs every request at INFO, heartbeats included.
    logging.getLogger("httpx").setLevel(logging.WARNING)
