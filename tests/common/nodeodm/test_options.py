"""The rules of contract 4, as tables and as properties."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nodeodm.catalogue import ODM_OPTIONS, STAGES
from common.nodeodm.options import (
    Option,
    OptionsInvalid,
    OptionsUnreadable,
    Setting,
    parse_options,
    with_automatic,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def option(kind: str, domain: str | tuple[str, ...] = "") -> Option:
    """An option of this type and domain."""
    return Option("x", kind, "", domain, "")


def converted(kind: str, domain: str | tuple[str, ...], raw: object) -> Any:
    """What a value becomes, or the complaint."""
    try:
        return parse_options([{"name": "x", "value": raw}], [option(kind, domain)])[0].value
    except OptionsInvalid as invalid:
        return json.loads(str(invalid))[0]["error"]


@pytest.mark.contract("2.4 engine")
def test_the_catalogue_is_odms() -> None:
    """Contract 9.6: 82 options, counted by type."""
    assert Counter(each.type for each in ODM_OPTIONS) == {"bool": 42, "float": 14, "int": 11, "enum": 11, "string": 4}
    assert len({each.name for each in ODM_OPTIONS}) == 82
    domains = Counter(each.domain for each in ODM_OPTIONS if isinstance(each.domain, str))
    assert domains == {
        "": 42,
        "positive integer": 11,
        "positive float": 9,
        "json": 2,
        "float": 2,
        "string": 2,
        "integer": 1,
        "integer: 1 <= x <= 14": 1,
        "float > 0.0": 1,
    }
    rerun = next(each for each in ODM_OPTIONS if each.name == "rerun-from")
    assert rerun.domain == ("", *STAGES)


@pytest.mark.contract("4.2 every default")
@pytest.mark.parametrize("each", ODM_OPTIONS, ids=lambda each: each.name)
def test_every_default_is_a_value_of_its_option(each: Option) -> None:
    """What the catalogue offers, it must take."""
    if each.value:
        assert parse_options([{"name": each.name, "value": each.value}], ODM_OPTIONS)
    assert each.help.endswith("%(default)s")


@pytest.mark.contract("4.2 conversion", "4.2 domains")
@pytest.mark.parametrize(
    ("kind", "domain", "raw", "wanted"),
    [
        ("int", "positive integer", "12.7", 12),
        ("int", "positive integer", "5abc", 5),
        ("int", "positive integer", 0, 0),
        ("int", "positive integer", -1, "Invalid value -1 (out of range)"),
        ("int", "positive integer", "x", "Invalid value NaN (out of range)"),
        ("int", "positive integer", True, "Invalid value NaN (out of range)"),
        ("int", "positive integer", "0x10", 16),
        ("int", "positive integer", " 7 ", 7),
        ("int", "integer: 1 <= x <= 14", 14, 14),
        ("int", "integer: 1 <= x <= 14", 15, "Invalid value 15 (out of range)"),
        ("float", "float > 0.0", "0", "Invalid value 0 (out of range)"),
        ("float", "float > 0.0", "0.5cm", 0.5),
        ("float", "float > 0.0", 1e-3, 0.001),
        ("float", "float", "-1.5e1", -15),
        ("float", "positive float", "Infinity", "Invalid value Infinity (out of range)"),
        ("float", "percent", 101, "Invalid value 101 (out of range)"),
        ("float", "negative float", 1, "Invalid value 1 (out of range)"),
        ("float", "sometimes", 1, "Domain value cannot be handled: 'sometimes' : '1'"),
        ("bool", "", "true", True),
        ("bool", "", "0", False),
        ("bool", "", 1, "Cannot convert 1 to boolean"),
        ("bool", "", "True", "Cannot convert True to boolean"),
        ("bool", "", None, "Cannot convert undefined to boolean"),
        ("enum", ("a", "b"), "b", "b"),
        ("enum", ("a", "b"), "B", "Invalid value B (not in enum)"),
        ("enum", ("", "a"), "", ""),
        ("string", "json", '{"a": 1}', '{"a": 1}'),
        ("string", "json", "", "Invalid value  (out of range)"),
        ("string", "json", "{", "Invalid value { (out of range)"),
        ("string", "path", "/anything", "/anything"),
    ],
)
def test_values_are_converted_as_nodeodm_does(
    kind: str, domain: str | tuple[str, ...], raw: object, wanted: object
) -> None:
    """Contract 4.2, JavaScript's numbers included; whole numbers stay whole in JSON."""
    found = converted(kind, domain, raw)
    assert found == wanted
    assert json.dumps(found) == json.dumps(wanted) or isinstance(wanted, float)


@pytest.mark.contract("4.1 no list")
def test_what_is_no_list_is_no_options() -> None:
    """Contract 4.1."""
    cases: list[object] = [{}, 5, None, "{}", "5", "null", [], "[]"]
    for raw in cases:
        assert parse_options(raw, ODM_OPTIONS) == ()


@pytest.mark.contract("4.1 no list")
def test_unreadable_options_are_told() -> None:
    """Contract 4.1."""
    with pytest.raises(OptionsUnreadable, match="not JSON"):
        parse_options("[{", ODM_OPTIONS)
    with pytest.raises(OptionsUnreadable, match=r"Cannot read properties of null \(reading 'name'\)"):
        parse_options("[null]", ODM_OPTIONS)


@pytest.mark.contract("4.1 unknown names")
def test_the_first_of_two_values_counts_and_unknown_names_are_dropped() -> None:
    """Contract 4.1."""
    raw = [{"name": "dsm", "value": True}, {"name": "nope", "value": 1}, {"name": "dsm", "value": False}, {}]
    assert parse_options(raw, ODM_OPTIONS) == (Setting("dsm", True),)


@pytest.mark.contract("4.4 post-processing")
def test_automatic_options_are_added_where_the_engine_has_them() -> None:
    """Contract 4.4."""
    given_settings = (Setting("cog", False),)
    names = [each.name for each in with_automatic(given_settings, ODM_OPTIONS, skip_post_processing=False)]
    assert names == ["cog", "pc-ept", "gltf"]
    assert with_automatic(given_settings, ODM_OPTIONS, skip_post_processing=True) == given_settings
    assert with_automatic((), [option("bool")], skip_post_processing=False) == ()


@given(anything)
def test_no_json_value_breaks_the_reading(raw: object) -> None:
    """Whatever comes: settings, or one of two clear refusals."""
    try:
        settings = parse_options(raw, ODM_OPTIONS)
    except (OptionsInvalid, OptionsUnreadable):
        return
    json.dumps([each.as_json() for each in settings], allow_nan=False)


@given(st.sampled_from(ODM_OPTIONS), anything)
def test_what_was_accepted_is_accepted_again_unchanged(each: Option, raw: object) -> None:
    """A restart sends back what info has shown."""
    try:
        settings = parse_options([{"name": each.name, "value": raw}], ODM_OPTIONS)
    except (OptionsInvalid, OptionsUnreadable):
        return
    again = json.loads(json.dumps([setting.as_json() for setting in settings]))
    assert parse_options(again, ODM_OPTIONS) == settings


@given(st.sampled_from(ODM_OPTIONS))
def test_options_survive_json(each: Option) -> None:
    """Nodes tell routers their options as JSON."""
    assert Option.from_json(json.loads(json.dumps(each.as_json()))) == each
