"""What a foreign node says, however odd, and what is made of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.federation import LINES_PER_HEARTBEAT
from common.nodeodm.messages import is_valid_uuid
from common.nodeodm.options import Setting
from common.tasks import Cause, State, Task, Wishes
from router.foreign_reports import (
    NotNodeOdm,
    capacity_of,
    info_of,
    is_ours,
    is_passing,
    is_scaleodm,
    is_unknown,
    judged,
    lines_of,
    options_of,
    order_of,
    product_name,
    remote_uuid,
    report_of,
    says_nothing_came,
    slots_of,
    upload_fields,
)

MARK = "0123456789ab"
UUID = "3f0e4bd2-5b0d-4a6e-9d3f-0a1b2c3d4e5f"
INFO = {
    "version": "2.2.4",
    "taskQueueCount": 3,
    "totalMemory": 8 * 2**30,
    "availableMemory": 2**30,
    "cpuCores": 4,
    "maxImages": None,
    "maxParallelTasks": 2,
    "engineVersion": "3.6.0",
    "engine": "odm",
}
CLUSTER_ODM = INFO | {
    "version": "1.5.3",
    "taskQueueCount": 0,
    "totalMemory": 99999999999,
    "availableMemory": 99999999999,
    "cpuCores": 99999999999,
    "maxParallelTasks": 99999999999,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def task_info(code: object = 20, **changes: object) -> dict[str, object]:
    """A task's info as NodeODM gives it."""
    return {
        "uuid": "x",
        "name": "a task",
        "dateCreated": 1795521600000,
        "processingTime": 4200,
        "status": {"code": code},
        "options": [],
        "imagesCount": 5,
        "progress": 45.0,
    } | changes


def test_the_info_of_a_nodeodm() -> None:
    """Slots, memory and limits as it says; what is in its queue and is not ours came to it directly."""
    info = info_of(INFO | {"maxImages": 0})
    assert (info.slots, info.max_images, info.is_recent) == (2, None, True)
    assert info_of(INFO | {"maxImages": 500}).max_images == 500
    capacity = capacity_of(info, 2, ours=1)
    assert (capacity.slots, capacity.direct, capacity.total_memory_bytes) == (2, 2, 8 * 2**30)
    assert capacity_of(info, 2, ours=5).direct == 0
    assert slots_of(["uploads", "slots"], info) == 2
    assert slots_of(["uploads", "slots=7"], info) == 7


def test_the_info_of_a_clusterodm_names_no_true_numbers() -> None:
    """It says 99999999999 where it does not know (contract 8.4)."""
    info = info_of(CLUSTER_ODM)
    assert (info.slots, info.total_memory_bytes, info.cpu_cores, info.is_recent) == (None, 0, 1, True)


@pytest.mark.parametrize("version", ["1.5.0", "1.4.9", "dev", "2.2", "v2.2.4", ""])
def test_versions_that_are_too_old_or_none(version: str) -> None:
    """Three numbers, 1.5.1 or later."""
    assert not info_of(INFO | {"version": version}).is_recent


@given(JSON, JSON)
def test_no_answer_makes_more_than_a_refusal(document: Any, value: Any) -> None:
    """Whatever a node says, it is read, or it is not a NodeODM."""
    keys = list(INFO)
    readings: list[tuple[Any, Any]] = [
        (info_of, document),
        (info_of, INFO | {keys[len(str(value)) % len(keys)]: value}),
        (options_of, document),
        (options_of, [document]),
        (lambda raw: report_of(raw, UUID, 1, 0), document),
        (lambda raw: report_of(raw, UUID, 1, 0), task_info(value)),
        *(
            (lambda raw: report_of(raw, UUID, 1, 0), task_info(20, **{key: value}))
            for key in ("processingTime", "imagesCount", "progress", "output", "waitingFor", "status")
        ),
    ]
    for read, asked in readings:
        try:
            found: Any = read(asked)
        except NotNodeOdm:
            continue
        if read is info_of:
            capacity_of(found, 1, 0)
    is_scaleodm(document)


def test_options_lose_what_some_nodes_add() -> None:
    """Exactly the five keys are kept (contract 2.4)."""
    option = {"name": "dsm", "type": "bool", "value": "false", "domain": "", "help": "A surface model."}
    enum = option | {"name": "merge", "type": "enum", "domain": ["all", "dem"]}
    assert options_of([option | {"group": "more"}, enum]) == [option, enum]
    with pytest.raises(NotNodeOdm):
        options_of([{"name": "dsm"}])


def test_a_scaleodm_is_known_by_its_description() -> None:
    """Its title, and the upload protocol that its elder relative has not (contract 10)."""
    ours = {"info": {"title": "ScaleODM router"}, "paths": {"/task/new/init": {}, "/task/new": {}}}
    assert is_scaleodm(ours)
    assert not is_scaleodm(ours | {"paths": {"/task/new": {}}})
    assert not is_scaleodm(ours | {"info": {"title": "Something else"}})


@pytest.mark.parametrize(
    ("code", "state", "progress"),
    [
        (10, State.PLACED, 45.0),
        (20, State.RUNNING, 45.0),
        (30, State.FAILED, 100.0),
        (40, State.COMPLETED, 45.0),
        (50, State.CANCELED, 100.0),
    ],
)
def test_reports_by_status_code(code: int, state: State, progress: float) -> None:
    """NodeODM's codes as states of an attempt."""
    report = report_of(task_info(code), UUID, 2, 7)
    assert (report.uuid, report.attempt, report.first_line) == (UUID, 2, 7)
    assert (report.state, report.progress, report.processing_ms, report.images_count) == (state, progress, 4200, 5)
    assert (report.waiting is not None) == (code == 10)


def test_the_rest_of_the_progress_is_ours() -> None:
    """A node is done at 100; the task is when it is published."""
    assert report_of(task_info(20, progress=97), UUID, 1, 0).progress == 93.0


def test_console_lines_are_kept_one_by_one() -> None:
    """Their number is what the node is asked by: none is left out, none is split; Postgres takes no NUL."""
    assert lines_of(["Compressing all.zip\n", "a\nb", "", "\x00x", 5, "\ud800"]) == [
        "Compressing all.zip",
        "a\nb",
        "",
        "x",
        "5",
        "?",
    ]
    report = report_of(task_info(output=["line"] * (LINES_PER_HEARTBEAT + 5)), UUID, 1, 0)
    assert len(report.lines) == LINES_PER_HEARTBEAT


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Cannot process dataset", Cause.ENGINE),
        ("Processing failed (7)", Cause.ENGINE),
        ("Processing failed (143)", Cause.INFRASTRUCTURE),
        ("Not enough memory", Cause.MEMORY),
        ("Not enough memory: Use fewer images", Cause.MEMORY),
        ("Unsupported CPU", Cause.INFRASTRUCTURE),
        ("Installation issue", Cause.INFRASTRUCTURE),
        ("Could not start process (spawn ENOENT)", Cause.INFRASTRUCTURE),
        ("connect ECONNREFUSED 127.0.0.1:1", Cause.INFRASTRUCTURE),
        (None, Cause.INFRASTRUCTURE),
        ("The engine ended well but made none of: odm_dem. See the console for what it skipped.", Cause.ENGINE),
        ("Access to s3://b/in/ was refused (AccessDenied).", Cause.REFUSED),
        ("Could not extract .zip file, unzip exited with code 9", Cause.INPUT),
        ("7 images uploaded, but this node can only process up to 5.", Cause.REFUSED),
    ],
)
def test_causes_by_nodeodms_words(words: str | None, cause: Cause) -> None:
    """Contract 3.3: what decides whether it is tried again, and where."""
    assert judged(words, []).cause is cause


def test_the_console_tells_more_than_the_words() -> None:
    """A lack of memory hides behind exit code 1, and the engine's last complaint is what a user can use."""
    assert judged("Cannot process dataset", ["[INFO] x", "[ERROR] std::bad_alloc"]).cause is Cause.MEMORY
    assert judged("Cannot process dataset", ["Child returned 137"]).cause is Cause.MEMORY
    found = judged("Cannot process dataset", ["[ERROR]   Not enough features", "[INFO] bye"])
    assert found.text == "Cannot process dataset: Not enough features"
    assert judged("Cannot process dataset: told already", ["[ERROR] x"]).text == "Cannot process dataset: told already"


@given(st.uuids(), st.integers(1, 10_000))
def test_uuids_on_the_node(uuid: Any, attempt: int) -> None:
    """NodeODM and ClusterODM take them, they are always the same, and no two attempts share one."""
    found = remote_uuid(MARK, str(uuid), attempt)
    assert is_valid_uuid(found)
    assert found[14] in "12345", "ClusterODM knows versions 1 to 5 only (contract 2.15)"
    assert found == remote_uuid(MARK, str(uuid), attempt)
    assert found != remote_uuid(MARK, str(uuid), attempt + 1)
    assert is_ours(MARK, found)
    assert not is_ours("ba9876543210", found)


def test_refusals_are_told_apart() -> None:
    """By the words of NodeODM, of ClusterODM, and of our own."""
    assert is_unknown(f"{UUID} not found")
    assert is_unknown(f"Invalid route for taskId {UUID}:info, no task table entry.")
    assert not is_unknown("Invalid uuid (not found)")
    assert is_passing("Invalid uuid (not found)")
    assert is_passing("Uuh, slow down! It seems like you are sending a lot of tasks.")
    assert not is_passing('[{"name":"merge","error":"Invalid value x (not in enum)"}]')
    assert says_nothing_came("Need at least 1 file.")
    assert says_nothing_came("No files uploaded.")
    assert not says_nothing_came("Invalid uuid (not found)")


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a\\..\\b", "C:\\x", "a\nb", "manifest.json", "all.zip",
     ".scaleodm/attempt.json", "folder/", "x" * 901],
)  # fmt: skip
def test_members_of_an_archive_that_have_no_business_in_the_output(name: str) -> None:
    """They would leave it, or stand where our own documents are."""
    assert product_name(name) is None


@given(st.text(max_size=40))
def test_a_product_stays_below_the_output(name: str) -> None:
    """However its name is made up."""
    found = product_name(name)
    if found is not None:
        assert found == name
        assert not found.startswith("/")
        assert ".." not in found.split("/")


def test_what_a_node_is_asked_for() -> None:
    """By fields for uploads, by reference for S3; never with the webhook, which is ours to call."""
    task = Task(
        uuid=UUID,
        tenant="t",
        name="flight",
        created_ms=5,
        state=State.PLACED,
        input="s3://b/in/",
        output="s3://b/out/",
        options=(Setting("dsm", True),),
        outputs=("odm_dem",),
        webhook="https://example.com/hook",
        skip_post_processing=True,
        wishes=Wishes(scan_depth=2, exclude=("x/**",)),
    )
    assert upload_fields(task) == {
        "name": "flight",
        "options": '[{"name": "dsm", "value": true}]',
        "dateCreated": "5",
        "skipPostProcessing": "true",
        "outputs": '["odm_dem"]',
    }
    order = order_of(task, "s3://b/out/scratch/")
    assert (order["readS3Path"], order["writeS3Path"]) == ("s3://b/in/", "s3://b/out/scratch/")
    assert (order["s3ScanDepth"], order["excludePaths"]) == (2, ["x/**"])
    assert "webhook" not in order
