"""Who is signed in, and how often a wrong token may be tried."""

from datetime import timedelta

import pytest

from common.tokens import Caller, Kind, hashed
from router.dashboard.sessions import Sessions
from router.dashboard.tries import Tries

KEY, OTHER_KEY = "k" * 32, "o" * 32
ADMIN, USER = Caller(Kind.ADMIN, "ops"), Caller(Kind.USER, "ada", "survey")
HOURS = timedelta(hours=12)


def sessions(key: str = KEY, **holders: Caller) -> Sessions:
    """Sessions over tokens with these hashes."""
    return Sessions(key, holders.get, HOURS)


def test_a_session_is_its_token_s_holder_on_every_replica() -> None:
    """What one seals, another with the same key opens."""
    cookie = sessions(admin=ADMIN).begin("admin", 1000)
    assert sessions(admin=ADMIN).caller(cookie, 1001) == ADMIN


def test_a_session_ends_with_its_time_and_with_its_token() -> None:
    """Twelve hours, or less."""
    known = sessions(admin=ADMIN)
    cookie = known.begin("admin", 1000)
    assert known.caller(cookie, 1000 + HOURS.total_seconds() - 1) == ADMIN
    assert known.caller(cookie, 1000 + HOURS.total_seconds()) is None
    assert sessions().caller(cookie, 1001) is None


def test_a_token_that_is_no_longer_an_administrator_s_opens_nothing() -> None:
    """The same name may get another kind."""
    assert sessions(admin=USER).caller(sessions().begin("admin", 1000), 1001) is None


@pytest.mark.parametrize("forged", ["", None, "admin", "gAAAAABo", "ü"])
def test_what_was_not_sealed_here_opens_nothing(forged: str | None) -> None:
    """Nor raises."""
    assert sessions(admin=ADMIN).caller(forged, 0) is None


def test_another_key_opens_nothing() -> None:
    """And has another cookie: two routers on one host leave each other's sessions alone."""
    mine, theirs = sessions(admin=ADMIN), sessions(OTHER_KEY, admin=ADMIN)
    assert theirs.caller(mine.begin("admin", 0), 1) is None
    assert mine.cookie != theirs.cookie


def test_a_cookie_tells_nothing_of_the_token() -> None:
    """Neither the token nor its hash."""
    cookie = sessions().begin(hashed("secret"), 0)
    assert "secret" not in cookie
    assert hashed("secret") not in cookie


class TestTries:
    """Wrong tokens, by address."""

    def test_so_many_and_then_a_wait(self) -> None:
        """The wait is until the oldest is forgotten."""
        tries = Tries(most=3, within_s=60)
        for moment in (0, 10, 20):
            assert tries.wait_s("192.0.2.1", moment) == 0
            tries.failed("192.0.2.1", moment)
        assert tries.wait_s("192.0.2.1", 30) == 30
        assert tries.wait_s("192.0.2.1", 60) == 0
        assert tries.wait_s("192.0.2.2", 30) == 0

    def test_an_address_of_ipv6_is_its_network(self) -> None:
        """Somebody who has one address has them all."""
        tries = Tries(most=1)
        tries.failed("2001:db8::1", 0)
        assert tries.wait_s("2001:db8::ffff", 1) > 0
        assert tries.wait_s("2001:db8:0:1::1", 1) == 0

    def test_what_is_no_address_counts_as_one(self) -> None:
        """A unix socket has none."""
        tries = Tries(most=1)
        tries.failed("an unknown address", 0)
        assert tries.wait_s("an unknown address", 1) > 0

    def test_memory_is_bounded(self) -> None:
        """The longest unheard of goes first; and no address takes more than its share."""
        tries = Tries(most=2, most_addresses=3)
        for number in range(10):
            for _ in range(5):
                tries.failed(f"192.0.2.{number}", number)
        assert [tries.wait_s(f"192.0.2.{number}", 9) > 0 for number in range(10)] == [False] * 7 + [True] * 3
