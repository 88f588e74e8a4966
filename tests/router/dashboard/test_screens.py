"""What a browser is told: what has changed, and nothing else."""

from typing import Any

from router.dashboard.screens import Console, Screen, changes


def test_the_first_look_tells_everything() -> None:
    """The browser may have the page from an earlier moment."""
    now = Screen({"count": "<p>1</p>"}, {"nodes": {"a": "<tr>a", "b": "<tr>b"}}, Console("1", 2, ("x", "y")))
    assert changes(Screen(), now) == {
        "parts": {"count": "<p>1</p>"},
        "lists": {"nodes": {"order": ["a", "b"], "children": {"a": "<tr>a", "b": "<tr>b"}}},
        "console": {"from": 0, "lines": ["x", "y"], "anew": True},
    }


def test_nothing_new_is_nothing() -> None:
    """Nothing is sent."""
    now = Screen({"a": "1"}, {"b": {"c": "2"}}, Console("1", 1, ("x",)))
    assert changes(now, Screen({"a": "1"}, {"b": {"c": "2"}}, Console("1", 1, ("x",)))) == {}


def test_of_a_list_only_what_changed_goes() -> None:
    """With the order, where that is another."""
    before = Screen(lists={"nodes": {"a": "1", "b": "1", "c": "1"}})
    assert changes(before, Screen(lists={"nodes": {"a": "1", "b": "2", "c": "1"}})) == {
        "lists": {"nodes": {"children": {"b": "2"}}}
    }
    assert changes(before, Screen(lists={"nodes": {"c": "1", "a": "1", "d": "1"}})) == {
        "lists": {"nodes": {"children": {"d": "1"}, "order": ["c", "a", "d"]}}
    }
    assert changes(before, Screen(lists={"nodes": {"b": "1", "a": "1", "c": "1"}})) == {
        "lists": {"nodes": {"children": {}, "order": ["b", "a", "c"]}}
    }


def test_a_list_that_is_empty_is_told_so() -> None:
    """Whether it was so from the start, or has become so."""
    told: dict[str, Any] = {"lists": {"nodes": {"children": {}, "order": []}}}
    assert changes(Screen(), Screen(lists={"nodes": {}})) == told
    assert changes(Screen(lists={"nodes": {"a": "1"}}), Screen(lists={"nodes": {}})) == told


class TestConsole:
    """Lines that come at the end."""

    def test_new_lines_go_alone(self) -> None:
        """With the number of the first."""
        told = changes(
            Screen(console=Console("1", 2, ("a", "b"))), Screen(console=Console("1", 4, ("a", "b", "c", "d")))
        )
        assert told == {"console": {"from": 2, "lines": ["c", "d"]}}

    def test_more_than_is_kept(self) -> None:
        """What was left out is left out; the numbers say so."""
        told = changes(Screen(console=Console("1", 2, ("a", "b"))), Screen(console=Console("1", 9, ("h", "i"))))
        assert told == {"console": {"from": 7, "lines": ["h", "i"]}}

    def test_another_attempt_begins_anew(self) -> None:
        """Also with fewer lines than before."""
        told = changes(Screen(console=Console("1", 5, ("e",))), Screen(console=Console("2", 1, ("x",))))
        assert told == {"console": {"from": 0, "lines": ["x"], "anew": True}}
