"""No secret in a log line (I9)."""

import logging

import pytest

from common.logs import scrubbed, start_logging


@pytest.mark.parametrize(
    "line",
    [
        "GET /info?token=SECRET HTTP/1.1",
        "GET /info?a=1&token=SECRET&b=2",
        "Authorization: Bearer SECRET",
        "https://s3/x?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET",
        '{"url": "http://h/?token=SECRET"}',
    ],
)
def test_tokens_and_signatures_are_blotted_out(line: str) -> None:
    """Wherever they stand."""
    assert "SECRET" not in scrubbed(line)
    assert "***" in scrubbed(line)


def test_the_finished_line_is_scrubbed_tracebacks_included(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments and exceptions bring secrets too."""
    start_logging()
    try:
        int("http://h/?token=SECRET1")
    except ValueError:
        logging.getLogger("x").exception("asked %s", "http://h/?token=SECRET2")
    logging.basicConfig(handlers=[], force=True)
    written = capsys.readouterr().err
    assert "token=***" in written
    assert "SECRET" not in written
