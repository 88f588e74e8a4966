"""The fields of a new task: whatever a client sends is read or refused in words."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm import messages
from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.json_text import read_json
from common.nodeodm.messages import WishUnreadable, wishes_from
from common.nodeodm.options import OptionsInvalid, OptionsUnreadable, parse_options
from common.references import DEFAULT_EXCLUDES, Reference, ReferenceUnreadable, located
from tests.fuzzing import TIMEOUT_S, fuzzed


def test_earlier_products_below_a_prefix_are_left_out_unless_asked_for() -> None:
    """ScaleODM's default (contract 8.5); what is uploaded file by file is meant."""
    by_reference = {"readS3Path": "s3://b/p/", "excludePaths": '["x/**"]'}
    assert wishes_from(by_reference).exclude == ("x/**", *DEFAULT_EXCLUDES)
    assert wishes_from(by_reference | {"useDefaultExcludes": "false"}).exclude == ("x/**",)
    assert wishes_from({"zipurl": "s3://b/p/"}).exclude == DEFAULT_EXCLUDES
    assert wishes_from({"useDefaultExcludes": "true"}).exclude == ()


@pytest.mark.parametrize("mode", ["merge-existing", "thermal", "city-scale"])
def test_processing_modes_that_scaleodm_has_reserved_are_refused_with_what_to_do(mode: str) -> None:
    """ScaleODM answers 501 to them."""
    with pytest.raises(
        WishUnreadable, match=r"is reserved by ScaleODM, and nothing does it yet; expected standard\. T"
    ):
        wishes_from({"processingMode": mode})


def test_the_standard_processing_mode_is_taken_and_an_unknown_one_is_not() -> None:
    """Contract 8.5."""
    assert wishes_from({"processingMode": "standard"}) == wishes_from({"processingMode": ""}) == wishes_from({})
    with pytest.raises(WishUnreadable, match="processingMode is 'turbo'; expected standard"):
        wishes_from({"processingMode": "turbo"})


@pytest.mark.parametrize(("raw", "depth"), [(None, None), ("", None), (0, None), ("0", None), (3, 3), ("3", 3)])
def test_scan_depth_is_read_from_text_and_numbers(raw: object, depth: int | None) -> None:
    """0 is no limit."""
    assert wishes_from({"s3ScanDepth": raw}).scan_depth == depth


def test_a_reference_is_put_into_the_s3_that_is_named() -> None:
    """Unless it names one itself, or is none."""
    assert located("s3://b/k/", "minio:9000") == "s3://b@minio:9000/k/"
    assert located("s3://b@other/k/", "minio:9000") == "s3://b@other/k/"
    assert located("s3://b/k/", "") == "s3://b/k/"
    assert located("https://x/y.zip", "minio:9000") == "https://x/y.zip"
    there = Reference.parse("s3://b@Minio:9000/k/")
    assert (there / "x").is_within(there)
    assert not (there / "x").is_within(Reference.parse("s3://b/k/"))
    assert str(there / "x") == "s3://b@minio:9000/k/x"


@pytest.mark.parametrize("field", ["options", "outputs", "excludePaths", "nodes", "nodeLabels"])
def test_text_nested_without_end_is_no_json(field: str) -> None:
    """Python's reader gives up with an exception of its own."""
    for raw in ("[" * 100_000, '{"a":' * 100_000):
        if field == "options":
            with pytest.raises(OptionsUnreadable, match="nested too deeply"):
                parse_options(raw, ODM_OPTIONS)
        elif field == "outputs":
            assert messages.outputs_from(raw) == ()
        else:
            with pytest.raises(WishUnreadable, match=field):
                wishes_from({field: raw})


@pytest.mark.parametrize(
    ("name", "value"),
    [("mesh-size", "9" * 5000), ("mesh-size", 10**400), ("primary-band", 10**400), ("primary-band", float("inf"))],
)
def test_numbers_that_nothing_can_hold_are_refused(name: str, value: object) -> None:
    """JavaScript calls them Infinity."""
    with pytest.raises(OptionsInvalid, match="out of range"):
        parse_options([{"name": name, "value": value}], ODM_OPTIONS)


def test_a_number_beyond_what_javascript_counts_is_told_as_it_tells_it() -> None:
    """An answer with a larger whole number could not be written at all."""
    (setting,) = parse_options([{"name": "mesh-size", "value": 2**70}], ODM_OPTIONS)
    assert isinstance(setting.value, float)
    assert orjson.dumps(setting.as_json()) == b'{"name":"mesh-size","value":1.1805916207174113e+21}'


def test_text_that_no_database_holds_is_mended() -> None:
    """NUL, and half of a character, which JSON can spell."""
    assert read_json('{"a\\u0000": ["b\\ud800c", "\\ud83d\\ude81"]}') == {"a": ["b?c", "🚁"]}
    with pytest.raises(ValueError, match="NaN is no number of JSON"):
        read_json("[NaN]")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "name",
        "options",
        "outputs",
        "webhook",
        "dateCreated",
        "skipPostProcessing",
        "s3ScanDepth",
        "excludePaths",
        "useDefaultExcludes",
        "odmImage",
        "capacityType",
        "processingMode",
        "readS3Path",
        "nodes",
        "avoidNodes",
        "nodeLabels",
        "priority",
        "replaceLost",
    ]
)


@given(st.dictionaries(FIELDS, JSON | JSON.map(json.dumps), max_size=8))
@fuzzed(100)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_fields_are_read_or_refused(fields: dict[str, object]) -> None:
    """No crash, whatever they hold."""
    outputs = messages.outputs_from(fields.get("outputs"))
    assert all(path and not path.startswith("/") and ".." not in path.split("/") for path in outputs)
    assert isinstance(messages.date_created(fields.get("dateCreated"), 7), int)
    try:
        wishes = wishes_from(fields)
    except WishUnreadable:
        return
    hash(wishes)


NAMES = st.sampled_from([option.name for option in ODM_OPTIONS] + ["unknown", ""])
OPTIONS = st.lists(
    st.fixed_dictionaries({"name": NAMES | JSON, "value": JSON | JSON.map(json.dumps)}) | JSON, max_size=6
)


@given(OPTIONS | OPTIONS.map(json.dumps) | st.text(max_size=60) | JSON)
@fuzzed(100)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_options_are_parsed_or_refused_in_nodeodms_shapes(raw: object) -> None:
    """Contract 4: what is taken is typed, finite and can be told as JSON."""
    try:
        parsed = parse_options(raw, ODM_OPTIONS)
    except OptionsInvalid as invalid:
        assert {frozenset(each) for each in json.loads(str(invalid))} == {frozenset({"name", "error"})}  # noqa: PT017
        return
    except OptionsUnreadable:
        return
    for setting in parsed:
        json.dumps(setting.value, allow_nan=False)


@given(st.text(max_size=60), st.text(alphabet="abc.:@/-", max_size=20))
@fuzzed(100)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_reference_is_read_back_as_it_was_or_refused(path: str, place: str) -> None:
    """With the S3 that it names."""
    try:
        reference = Reference.parse(f"s3://{place}/{path}")
    except ReferenceUnreadable:
        return
    assert Reference.parse(str(reference)) == reference
