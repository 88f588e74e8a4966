"""From what a client submitted to a task, and from a task's input to what is in it. The same on router and node."""

from dataclasses import dataclass

from common.nodeodm.options import Option, Setting, with_automatic
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import Submission
from common.references import (
    Reference,
    ReferenceUnreadable,
    inputs_under,
    is_image,
    output_for,
    staged_images,
    staged_root,
)
from common.storage import Storage
from common.tasks import State, Task
from common.tokens import Caller


class InputRefused(Exception):
    """What lies at the input cannot become a task; the text is what the user is told."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What an input holds."""

    images_count: int
    input_bytes: int


def task_from(
    caller: Caller, uuid: str, submission: Submission, staging: Reference, catalogue: tuple[Option, ...]
) -> Task:
    """The task that this submission asks for, in state `uploading` where files are to come. Raises `Refused`."""
    source, output, staged = _places(caller, uuid, submission, staging)
    return Task(
        uuid=uuid,
        tenant=submission.tenant or caller.tenant,
        name=submission.name,
        created_ms=submission.created_ms,
        state=State.UPLOADING if staged else State.STAGING,
        input=str(source),
        output=str(output),
        staged=staged,
        options=automatic(submission.settings, catalogue, submission.skip_post_processing),
        outputs=submission.outputs,
        webhook=submission.webhook,
        skip_post_processing=submission.skip_post_processing,
        images_count=submission.images_count,
        input_bytes=submission.input_bytes,
    )


def is_same_request(known: Task, asked: Task) -> bool:
    """Whether a client that repeats itself asks for what it has already been given."""
    return (known.input, known.output, known.options, known.outputs) == (
        asked.input,
        asked.output,
        asked.options,
        asked.outputs,
    )


def automatic(
    settings: tuple[Setting, ...], catalogue: tuple[Option, ...], skip_post_processing: bool
) -> tuple[Setting, ...]:
    """The settings with NodeODM's own additions (contract 4.4)."""
    return with_automatic(settings, catalogue, skip_post_processing)


def _places(caller: Caller, uuid: str, submission: Submission, staging: Reference) -> tuple[Reference, Reference, bool]:
    try:
        write = Reference.parse(submission.write).as_prefix() if submission.write else None
        if submission.read is None:
            output = write or staged_root(staging, uuid) / "output/"
            _check_allowed(caller, output)
            return staged_images(staging, uuid), output, True
        if not submission.read.lower().startswith("s3://"):
            raise Refused(
                f"zipurl {submission.read!r} is not supported: expected s3://bucket/folder/ or s3://bucket/images.zip. "
                "Put the images into S3, or upload them."
            )
        read = Reference.parse(submission.read)
        read = read if read.key.lower().endswith(".zip") else read.as_prefix()
        output = output_for(read, write)
    except ReferenceUnreadable as unreadable:
        raise Refused(str(unreadable)) from unreadable
    _check_allowed(caller, read)
    _check_allowed(caller, output)
    return read, output, False


def _check_allowed(caller: Caller, reference: Reference) -> None:
    """Our credentials reach more than one tenant's imagery: a token may name where its tasks may go (design 10)."""
    allowed = [Reference.parse(prefix).as_prefix() for prefix in caller.prefixes]
    if allowed and not any(reference.is_within(prefix) for prefix in allowed):
        raise Refused(
            f"{reference} is not open to this token, which may use {', '.join(map(str, allowed))}. "
            "Choose a path below one of these, or ask the administrator for another token."
        )


def survey(storage: Storage, task: Task) -> Survey:
    """Count a task's input. Raises `InputRefused` for an empty one, `StorageFault` for one that cannot be read."""
    source = Reference.parse(task.input)
    if not source.is_prefix:
        return _survey_zip(storage, source)
    found = list(inputs_under(storage.listing(source), source, Reference.parse(task.output)))
    names = [each.reference.key.rpartition("/")[2] for each in found]
    if not any(is_image(name) or name.lower().endswith(".zip") for name in names):
        raise InputRefused(_nothing_in(source, names))
    return Survey(len(found), sum(each.size for each in found))


def check_limit(images_count: int, limit: int | None) -> None:
    """Raise `InputRefused`, in NodeODM's words (contract 2.12), for more images than `limit`; None is no limit."""
    if limit is not None and images_count > limit:
        raise InputRefused(too_many_images(images_count, limit))


def too_many_images(images_count: int, limit: int) -> str:
    """NodeODM's words for it."""
    return f"{images_count} images uploaded, but this node can only process up to {limit}."


def _survey_zip(storage: Storage, source: Reference) -> Survey:
    sizes = [each.size for each in storage.listing(source) if each.reference == source]
    if not sizes:
        raise InputRefused(f"{source} does not exist: expected a zip file of images there.")
    return Survey(0, sizes[0])


def _nothing_in(source: Reference, names: list[str]) -> str:
    held = "it is empty" if not names else f"it holds {len(names)} files, such as {names[0]!r}, and none is an image"
    return f"No images in {source}: {held}. Expected files named .jpg, .jpeg, .png, .tif, .tiff, .dng or the like."
