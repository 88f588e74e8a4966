"""`s3://` references, and where things lie."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.references import Reference, ReferenceUnreadable, inputs_under, is_image, output_for, zipurl_output
from common.tasks import Wishes


@dataclass(frozen=True)
class Found:
    """What a listing gives."""

    reference: Reference


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("S3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket//a", "s3://bucket/a"),
        ("s3://my-bucket.v2/ä b/", "s3://my-bucket.v2/ä b/"),
    ],
)
def test_references_are_read(raw: str, wanted: str) -> None:
    """And written."""
    assert str(Reference.parse(raw)) == wanted


@pytest.mark.parametrize(
    "raw", ["", "bucket/a", "https://x/y", "s3://", "s3:///a", "s3://b/../c", "s3://b\x00/", "s3://a b/"]
)
def test_what_is_no_reference_is_told(raw: str) -> None:
    """With the value, and what was expected."""
    with pytest.raises(ReferenceUnreadable, match="Expected s3://bucket/folder/") as told:
        Reference.parse(raw)
    assert repr(raw) in str(told.value)


def test_outputs_lie_where_the_design_says() -> None:
    """Design 4.3."""
    read = Reference.parse("s3://b/survey/")
    assert str(output_for(read, None)) == "s3://b/survey/output/"
    assert str(output_for(read, Reference.parse("s3://c/out"))) == "s3://c/out/"
    assert str(output_for(Reference.parse("s3://b/x.zip"), None)) == "s3://b/x-output/"
    assert zipurl_output("s3://x/y/") == "s3://x/y-output/"


def test_within_means_below_and_not_beside() -> None:
    """`tenant-1` may not read `tenant-10`."""
    mine = Reference.parse("s3://b/tenant-1")
    assert Reference.parse("s3://b/tenant-1/a").is_within(mine)
    assert not Reference.parse("s3://b/tenant-10/a").is_within(mine)
    assert not Reference.parse("s3://other/tenant-1/a").is_within(mine)


def test_images_are_told_by_their_names() -> None:
    """Contract 9.1."""
    assert [is_image(name) for name in ("a.JPG", "a.tiff", "a.dng", "a_mask.png", "a.txt", "jpg", "a.")] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_what_lies_in_the_output_is_no_input() -> None:
    """A second run must not process the first one's orthophoto."""
    root = Reference.parse("s3://b/s/")
    names = ["a.jpg", "sub/b.jpg", "sub/", "gcp_list.txt", "output/odm_orthophoto/odm_orthophoto.tif", "x.md"]
    found = inputs_under([Found(root / name) for name in names], root, root / "output/")
    assert [each.reference.key for each in found] == ["s/a.jpg", "s/sub/b.jpg", "s/gcp_list.txt"]


@given(st.text())
def test_any_text_is_read_or_refused(raw: str) -> None:
    """And what was read stays within its bucket."""
    try:
        reference = Reference.parse("s3://bucket/" + raw)
    except ReferenceUnreadable:
        return
    assert ".." not in reference.key.split("/")
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("output/**", "output/a.jpg", True),
        ("output/**", "b/output/c/a.jpg", True),
        ("output/**", "outputs/a.jpg", False),
        ("/output/**", "b/output/a.jpg", False),
        ("*_skip.jpg", "b/a_skip.jpg", True),
        ("*.jpg", "b/a.jpg", True),
        ("b/*.jpg", "b/c/a.jpg", False),
        ("?.jpg", "a.jpg", True),
        (".*/**", ".cache/a.jpg", True),
        ("**a*b.jpg", "xa/ab.jpg", True),
        ("a.jpg", "aXjpg.jpg", False),
    ],
)
def test_patterns_as_rclone_reads_them(pattern: str, path: str, matches: bool) -> None:
    """Contract 8.5."""
    listed = [Found(Reference("b", f"i/{path}"))]
    found = list(inputs_under(listed, Reference("b", "i/"), Reference("b", "o/"), Wishes(exclude=(pattern,))))
    assert (not found) == matches


def test_a_pattern_made_to_hang_us_does_not() -> None:
    """A hundred wildcards over a long key: as a regular expression this would not end."""
    listed = [Found(Reference("b", "i/" + "a" * 900 + ".jpg"))]
    wishes = Wishes(exclude=("**a" * 80 + "c",))
    assert len(list(inputs_under(listed, Reference("b", "i/"), Reference("b", "o/"), wishes))) == 1
