"""From what a client submitted to a task, and from a task's input to what is in it. The same on router and node."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from common import boundaries
from common.nodeodm.options import Option, Setting, with_automatic
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission
from common.references import (
    Reference,
    ReferenceUnreadable,
    inputs_under,
    is_archive,
    is_image,
    is_link,
    link_beside,
    link_in,
    output_for,
    staged_images,
    staged_root,
)
from common.settings import InputSettings, read_settings
from common.storage import Storage
from common.tasks import State, Task
from common.tokens import Caller, Kind

SEED = "seed.zip"
_LONGEST_URL = 8192


class InputRefused(Exception):
    """What lies at the input cannot become a task; the text is what the user is told."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What an input holds."""

    images_count: int
    input_bytes: int
    is_child: bool = False
    """It is one part of a split task: only ODM's split-merge sends a `seed.zip`."""


def task_from(
    caller: Caller, uuid: str, submission: Submission, staging: Reference, catalogue: tuple[Option, ...]
) -> Task:
    """The task that this submission asks for, in state `uploading` where files are to come. Raises `Refused`."""
    if caller.kind is Kind.PART and (submission.read or submission.write):
        raise Refused("This token sends parts of a split task, which are uploaded: S3 paths are not open to it.")
    source, output, staged = _places(caller, uuid, submission, staging)
    check_boundary(caller, submission.settings)
    most = caller.limits.priority
    if caller.kind is Kind.USER and submission.wishes.priority > most:
        raise Refused(f"priority is {submission.wishes.priority}; this token may ask for {most} at most.")
    return Task(
        uuid=uuid,
        tenant=submission.tenant or caller.tenant,
        name=submission.name,
        created_ms=submission.created_ms,
        state=State.UPLOADING if submission.read is None else State.STAGING,
        input=str(source),
        output=str(output),
        staged=staged,
        options=automatic(submission.settings, catalogue, submission.skip_post_processing),
        outputs=submission.outputs,
        webhook=submission.webhook,
        skip_post_processing=submission.skip_post_processing,
        wishes=submission.wishes,
        images_count=submission.images_count,
        input_bytes=submission.input_bytes,
        first_attempt=submission.first_attempt,
        memory_factor=submission.memory_factor,
        token=caller.name,
        family=caller.family,
        child=caller.kind is Kind.PART,
    )


def is_same_request(known: Task, asked: Task) -> bool:
    """Whether a client that repeats itself asks for what it has already been given."""
    return (known.input, known.output, known.options, known.outputs, known.wishes) == (
        asked.input,
        asked.output,
        asked.options,
        asked.outputs,
        asked.wishes,
    )


def automatic(
    settings: tuple[Setting, ...], catalogue: tuple[Option, ...], skip_post_processing: bool
) -> tuple[Setting, ...]:
    """The settings with NodeODM's own additions (contract 4.4)."""
    return with_automatic(settings, catalogue, skip_post_processing)


def _places(caller: Caller, uuid: str, submission: Submission, staging: Reference) -> tuple[Reference, Reference, bool]:
    try:
        write = Reference.parse(submission.write).as_prefix() if submission.write else None
        if submission.read is None or is_web_link(submission.read):
            # Staging is ours, and a place of its own for each task; what a token may use is told of its own paths.
            _check_allowed(caller, write)
            output = write or staged_root(staging, uuid) / "output/"
            if submission.read is None:
                return staged_images(staging, uuid), output, True
            _check_web_link(submission.read)
            return link_in(staging, uuid, submission.read), output, True
        read = Reference.parse(submission.read)
        read = read if is_archive(read.name) or is_link(read) else read.as_prefix()
        output = output_for(read, write)
    except ReferenceUnreadable as unreadable:
        raise Refused(str(unreadable)) from unreadable
    _check_allowed(caller, read)
    _check_allowed(caller, output)
    return read, output, False


def is_web_link(raw: str | None) -> bool:
    """Whether this is a `zipurl` that is fetched over http(s), and not from S3."""
    return raw is not None and raw[:8].lower().startswith(("http://", "https://"))


def _check_web_link(url: str) -> None:
    """What can be said of it without asking anybody. It may hold a secret: no text repeats more than its host."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or len(url) > _LONGEST_URL or any(ord(each) < 33 or ord(each) == 127 for each in url):
        raise Refused("zipurl is no URL that can be read; expected https://host/images.zip, or s3://bucket/images.zip.")


def keep_link(storage: Storage, task: Task, submission: Submission) -> None:
    """Put the address that a new task's input lies at where its run finds it, before the task goes on record.

    Neither record, order nor Job holds it: it may be signed, and so a secret (I9). Nobody asks the address before the
    run does, from where the run is: links are often good for one request, and what strangers name is to hold up no
    router.
    """
    if is_web_link(submission.read):
        storage.write(Reference.parse(task.input), json.dumps({"url": submission.read}).encode(), "application/json")


def check_upload_link(caller: Caller, submission: Submission) -> None:
    """Whether the address that comes with an upload, if any, may come with it. Raises `Refused`."""
    if submission.read is None or not is_web_link(submission.read):
        return
    if caller.kind is Kind.PART:
        raise Refused("This token sends parts of a split task, which are uploaded: zipurl is not open to it.")
    _check_web_link(submission.read)


def keep_upload_link(storage: Storage, task: Task, submission: Submission, was_open: bool) -> None:
    """What a `zipurl` leads to belongs to an upload's files, as NodeODM has it (contract 2.9, 5): its run fetches both.

    New fields of an upload that `was_open` take the place of all earlier ones.
    """
    link = link_beside(Reference.parse(task.input), task.uuid)
    if is_web_link(submission.read):
        storage.write(link, json.dumps({"url": submission.read}).encode(), "application/json")
    elif was_open:
        storage.delete(link)


def check_boundary(caller: Caller, settings: tuple[Setting, ...]) -> None:
    """A boundary in S3 lies where the caller may read."""
    for each in settings:
        if each.name == boundaries.OPTION and boundaries.is_reference(each.value):
            try:
                _check_allowed(caller, Reference.parse(str(each.value)))
            except ReferenceUnreadable as unreadable:
                raise Refused(str(unreadable)) from unreadable


def _check_allowed(caller: Caller, reference: Reference | None) -> None:
    """Our credentials reach more than one tenant's imagery: a token may name where its tasks may go (design 10).

    What lies outside of S3 is nobody's imagery, and none of our credentials opens it.
    """
    if reference is None:
        return
    allowed = [Reference.parse(prefix).as_prefix() for prefix in caller.prefixes]
    if allowed and not any(reference.is_within(prefix) for prefix in allowed):
        raise Refused(
            f"{reference} is not open to this token, which may use {', '.join(map(str, allowed))}. "
            "Choose a path below one of these, or ask the administrator for another token."
        )


def survey(storage: Storage, task: Task) -> Survey:
    """Count a task's input. Raises `InputRefused` for an empty one, `StorageFault` for one that cannot be read."""
    source = Reference.parse(task.input)
    if is_link(source):
        return Survey(0, _link_bytes())
    if not source.is_prefix:
        return _survey_archive(storage, source)
    found = list(inputs_under(storage.listing(source), source, Reference.parse(task.output), task.wishes))
    names = [each.reference.key.rpartition("/")[2] for each in found]
    if not any(is_image(name) or is_archive(name) for name in names):
        raise InputRefused(_nothing_in(source, names))
    # What is in an archive is counted when it is unpacked; until then the bytes say how large the task is.
    linked = any(is_link(each.reference) for each in found)
    packed = linked or any(is_archive(name) and name.lower() != SEED for name in names)
    size = sum(each.size for each in found) + (_link_bytes() if linked else 0)
    return Survey(0 if packed else len(found), size, any(name.lower() == SEED for name in names))


def check_limit(images_count: int, limit: int | None) -> None:
    """Raise `InputRefused`, in NodeODM's words (contract 2.12), for more images than `limit`; None is no limit."""
    if limit is not None and images_count > limit:
        raise InputRefused(too_many_images(images_count, limit))


def too_many_images(images_count: int, limit: int) -> str:
    """NodeODM's words for it."""
    return f"{images_count} images uploaded, but this node can only process up to {limit}."


def _link_bytes() -> int:
    """What is reckoned with for a link, whose size nobody knows before its run."""
    return int(read_settings(InputSettings).link_gib * 2**30)


def _survey_archive(storage: Storage, source: Reference) -> Survey:
    sizes = [each.size for each in storage.listing(source) if each.reference == source]
    if not sizes:
        raise InputRefused(f"{source} does not exist: expected an archive of images there.")
    return Survey(0, sizes[0])


def _nothing_in(source: Reference, names: list[str]) -> str:
    held = "it is empty" if not names else f"it holds {len(names)} files, such as {names[0]!r}, and none is an image"
    return f"No images in {source}: {held}. Expected files named .jpg, .jpeg, .png, .tif, .tiff, .dng or the like."
