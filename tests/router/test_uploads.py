"""Uploads that two replicas of a router take the files of, over a real Postgres and S3."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from common.embedded.object_store import ObjectStore
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission
from common.references import Reference
from common.tokens import Caller, Kind
from router.database import Database
from router.federated import FederatedTasks
from tests.router.callers import USER
from tests.router.replica import Replica

STAGING = Reference.parse("s3://staging/")
SUBMISSION = Submission("field", 1)


@pytest.fixture
async def replicas(database: Database, rclone: ObjectStore) -> AsyncIterator[list[FederatedTasks]]:
    """Two, to which one node has joined."""
    made = [Replica(database, rclone) for _ in range(2)]
    await made[0].join("a")
    await made[1].registry.load()
    yield [
        FederatedTasks(each.database, each.snapshot, each.registry, each.loop, each.access, each.loop._storage, STAGING)
        for each in made
    ]
    for each in made:
        await each.loop.close()


async def test_a_file_that_comes_after_another_replica_has_committed_is_refused(
    replicas: list[FederatedTasks], rclone: ObjectStore
) -> None:
    """What a replica remembers lets the request in; the record decides about each file."""
    one, other = replicas
    uuid = await one.open_upload(USER, str(uuid4()), SUBMISSION)
    opened = await one.upload(USER, uuid, from_memory=True)
    assert await opened.inbox.take("a.jpg")
    rclone.storage().write(opened.prefix / "a.jpg", b"x")
    assert await other.commit(USER, uuid) == uuid
    late = await one.upload(USER, uuid, from_memory=True)
    with pytest.raises(Refused, match=r"Invalid uuid \(not found\)"):
        await late.inbox.take("b.jpg")
    with pytest.raises(Refused, match=r"Invalid uuid \(not found\)"):
        await one.upload(USER, uuid)
    with pytest.raises(Refused, match=r"Invalid uuid \(not found\)"):
        await other.upload(USER, uuid, from_memory=True)


async def test_i12_an_upload_that_is_remembered_is_still_its_tenants(replicas: list[FederatedTasks]) -> None:
    """Whoever else names it hears what is told of one that is not there."""
    one, _ = replicas
    uuid = await one.open_upload(USER, str(uuid4()), SUBMISSION)
    await one.upload(USER, uuid, from_memory=True)
    stranger = Caller(Kind.USER, "mallory", "other")
    with pytest.raises(Refused, match=r"Invalid uuid \(not found\)"):
        await one.upload(stranger, uuid, from_memory=True)


async def test_a_commit_counts_names_and_sees_that_something_is_there(
    replicas: list[FederatedTasks], rclone: ObjectStore
) -> None:
    """A name whose file was lost with a replica is counted until the survey looks; names alone are no upload."""
    one, other = replicas
    uuid = await one.open_upload(USER, str(uuid4()), SUBMISSION)
    inbox = (await one.upload(USER, uuid)).inbox
    for name in ("a.jpg", "b.jpg", "lost.jpg"):
        assert await inbox.take(name)
    prefix = (await other.upload(USER, uuid)).prefix
    for name in ("a.jpg", "b.jpg"):
        rclone.storage().write(prefix / name, b"x")
    await other.commit(USER, uuid)
    assert (await other.task(USER, uuid)).images_count == 3
    empty = await one.open_upload(USER, str(uuid4()), SUBMISSION)
    assert await (await one.upload(USER, empty)).inbox.take("lost.jpg")
    with pytest.raises(Refused, match="Need at least 1 file"):
        await one.commit(USER, empty)
    with pytest.raises(Refused, match=r"Invalid uuid \(not found\)"):
        await one.upload(USER, empty, from_memory=True)
