"""From what a client submitted to a task: where its input and output lie, and what its token lets it name."""

from dataclasses import asdict

import pytest

from common.nodeodm.intake import is_same_request, survey, task_from
from common.nodeodm.options import Setting
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission
from common.references import Reference, is_link
from common.storage import Storage
from common.tasks import State, Task
from common.tokens import Caller, Kind
from tests.client import JPEG

STAGING = Reference.parse("s3://staging/")
LINK = "https://host.example/a.zip?signature=very-secret"
FREE = Caller(Kind.USER, "free", tenant="t")
BOUND = Caller(Kind.USER, "bound", tenant="t", prefixes=("s3://mine/",))


def task(caller: Caller, read: str | None, write: str | None = None, boundary: str | None = None) -> Task:
    """The task of this submission."""
    settings = (Setting("boundary", boundary),) if boundary else ()
    submission = Submission("a task", 1, settings=settings, read=read, write=write)
    return task_from(caller, "u-1", submission, STAGING, ())


@pytest.mark.parametrize(
    ("read", "source", "output"),
    [
        ("s3://b/x.zip", "s3://b/x.zip", "s3://b/x-output/"),
        ("s3://b/x.TAR.GZ", "s3://b/x.TAR.GZ", "s3://b/x-output/"),
        ("s3://b/x.tgz", "s3://b/x.tgz", "s3://b/x-output/"),
        ("s3://b/x.tar.xz/", "s3://b/x.tar.xz/", "s3://b/x.tar.xz/output/"),
        ("s3://b/x", "s3://b/x/", "s3://b/x/output/"),
    ],
)
def test_one_archive_is_an_object_and_all_else_a_folder(read: str, source: str, output: str) -> None:
    """By its name's end."""
    made = task(FREE, read)
    assert (made.input, made.output) == (source, output)


def test_a_link_stands_in_no_record_of_its_task() -> None:
    """It may be signed (I9); its products go to staging, where they are cleaned up with the task."""
    made = task(FREE, LINK)
    assert "host.example" not in str(asdict(made))
    assert is_link(Reference.parse(made.input))
    assert made.output == "s3://staging/u-1/output/"
    assert (made.state, made.staged) == (State.STAGING, True)


def test_another_link_under_the_same_uuid_is_another_request() -> None:
    """The same one again is a client's repetition (design 4.5)."""
    assert is_same_request(task(FREE, LINK), task(FREE, LINK))
    assert not is_same_request(task(FREE, LINK), task(FREE, LINK + "x"))


def test_a_token_with_prefixes_may_give_a_link_but_write_within_them_only() -> None:
    """What a link leads to is nobody's imagery of ours."""
    assert task(BOUND, LINK).output == "s3://staging/u-1/output/"
    assert task(BOUND, LINK, "s3://mine/out/").output == "s3://mine/out/"
    with pytest.raises(Refused, match="is not open to this token"):
        task(BOUND, LINK, "s3://other/out/")


def test_a_token_with_prefixes_may_upload_but_write_within_them_only() -> None:
    """Staging is ours, and each task's own."""
    made = task(BOUND, None)
    assert (made.input, made.output) == ("s3://staging/u-1/images/", "s3://staging/u-1/output/")
    assert task(BOUND, None, "s3://mine/out/").output == "s3://mine/out/"
    with pytest.raises(Refused, match="is not open to this token"):
        task(BOUND, None, "s3://other/out/")


def test_a_token_with_prefixes_may_name_a_boundary_within_them_only() -> None:
    """Else it could read through our credentials."""
    assert task(BOUND, "s3://mine/a/", boundary="s3://mine/area.geojson").options
    with pytest.raises(Refused, match=r"s3://other/area\.geojson is not open to this token"):
        task(BOUND, "s3://mine/a/", boundary="s3://other/area.geojson")


def test_a_token_with_prefixes_reaches_no_other_s3() -> None:
    """A bucket of the same name elsewhere is another one."""
    with pytest.raises(Refused, match="is not open to this token"):
        task(BOUND, "s3://mine@elsewhere.example/a/")


def test_images_in_archives_are_counted_by_nobody_before_they_are_unpacked(storage: Storage, bucket: Reference) -> None:
    """Their bytes say how large the task is; a seed is no archive of images."""
    storage.write(bucket / "one/a.jpg", JPEG)
    storage.write(bucket / "one/seed.zip", b"x" * 100)
    found = survey(storage, task(FREE, str(bucket / "one/")))
    assert (found.images_count, found.is_child) == (2, True)
    storage.write(bucket / "one/more.tar.gz", b"x" * 1000)
    found = survey(storage, task(FREE, str(bucket / "one/")))
    assert (found.images_count, found.input_bytes) == (0, len(JPEG) + 1100)


def test_nobody_asks_a_link_before_its_run(storage: Storage) -> None:
    """What it may hold is a setting, `SCALEODM_INPUT_LINK_GIB`."""
    found = survey(storage, task(FREE, LINK))
    assert (found.images_count, found.input_bytes) == (0, 2 * 2**30)
