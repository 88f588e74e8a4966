"""No secret in a log line (I9)."""

import json
import logging
from collections.abc import Iterator

import pytest

from common.logs import Concern, about, concern_of, scrubbed, start_logging, task_in_path
from common.settings import SettingsUnusable

UUID = "2b3f0b5e-7f5b-4c55-9a2e-0123456789ab"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a test makes of logging ends with it."""
    yield
    logging.basicConfig(handlers=[], force=True)
    for name in ("router", "node", "common"):
        logging.getLogger(name).setLevel(logging.NOTSET)


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
def test_i9_tokens_and_signatures_are_blotted_out(line: str) -> None:
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
    written = capsys.readouterr().err
    assert "token=***" in written
    assert "SECRET" not in written


def test_json_is_scrubbed_and_still_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a secret ends in a quotation mark; a traceback stays on its line."""
    monkeypatch.setenv("SCALEODM_LOG_FORMAT", "json")
    start_logging("router")
    try:
        int("http://h/?token=SECRET1")
    except ValueError:
        logging.getLogger("router.x").exception('{"url": "http://h/?token=SECRET2"} of task %s', UUID)
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert "SECRET" not in line
    assert told["message"] == f'{{"url": "http://h/?token=***"}} of task {UUID}'
    assert (told["program"], told["logger"], told["level"], told["task"]) == ("router", "router.x", "ERROR", UUID)
    assert told["exception"].startswith("Traceback")


def test_text_says_at_its_end_what_its_words_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    """And looks as ever where they do."""
    start_logging("router")
    logger = logging.getLogger("router.x")
    with about(UUID, 2, "alpha"):
        logger.info("it is looked at again")
        logger.info("task %s on node alpha", UUID)
    logger.info("nothing in particular")
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.endswith(f" INFO    router.x: it is looked at again [task={UUID} node=alpha]")
    assert second.endswith(f" INFO    router.x: task {UUID} on node alpha")
    assert third.endswith(" INFO    router.x: nothing in particular")


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (f"task {UUID} attempt 3: said", Concern(UUID, 3)),
        (f"task {UUID}: attempt 3 is adopted again", Concern(UUID, 3)),
        (f"quota odm-{UUID}-2: forbidden", Concern(UUID, 2)),
        (f"survey {UUID}: S3 does not answer", Concern(UUID)),
        (f"joined http://127.0.0.1:1 as alpha ({UUID})", Concern()),
        (f"dropped POST /federation/nodes/{UUID}/heartbeat", Concern()),
        ("node alpha joined: odm, 2 slots", Concern(node="alpha")),
        ("foreign node beta: it is silent", Concern(node="beta")),
        (f"task {UUID} refused by node alpha: no", Concern(UUID, 0, "alpha")),
        ("no node has joined this router", Concern()),
    ],
)
def test_a_lines_own_words_say_what_it_is_about(message: str, found: Concern) -> None:
    """Where nobody has said it before; who has knows better."""
    assert concern_of(message, Concern()) == found
    known = Concern("another", 1, "gamma")
    assert concern_of(message, known) == known


def test_what_is_about_a_task_is_so_within_and_not_after() -> None:
    """One within the other adds to it."""
    with about("u", 1):
        with about(node="alpha"):
            assert concern_of("", _now()) == Concern("u", 1, "alpha")
        assert concern_of("", _now()) == Concern("u", 1)
    assert _now() == Concern()


def _now() -> Concern:
    from common.logs import _concern

    return _concern.get()


@pytest.mark.parametrize(
    ("path", "task"),
    [
        (f"/task/{UUID}/info", UUID),
        (f"/task/new/upload/{UUID}", UUID),
        (f"/admin/tasks/{UUID}", UUID),
        (f"/federation/nodes/{UUID}/heartbeat", ""),
        ("/info", ""),
    ],
)
def test_a_request_is_about_the_task_in_its_path(path: str, task: str) -> None:
    """But a node has an id too."""
    assert task_in_path(path) == task


def test_more_than_info_is_told_of_our_own_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries would tell signatures and keys (I9)."""
    monkeypatch.setenv("SCALEODM_LOG_LEVEL", "debug")
    start_logging()
    logging.getLogger("router.x").debug("ours")
    logging.getLogger("botocore.auth").debug("AWS4-HMAC-SHA256 Credential=SECRET")
    monkeypatch.setenv("SCALEODM_LOG_LEVEL", "ERROR")
    start_logging()
    logging.getLogger("router.x").warning("not any more")
    written = capsys.readouterr().err
    assert "ours" in written
    assert "SECRET" not in written
    assert "not any more" not in written


def test_a_format_that_is_none_is_told_like_any_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a log that works all the same."""
    monkeypatch.setenv("SCALEODM_LOG_FORMAT", "xml")
    with pytest.raises(SettingsUnusable, match="SCALEODM_LOG_FORMAT: Input should be 'text' or 'json'"):
        start_logging()
    logging.getLogger("router.x").error("told")
    assert "router.x: told" in capsys.readouterr().err
