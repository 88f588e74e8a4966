"""`zipurl` over http(s) → a file."""

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.stages.archives import Bounds, DiskTooSmall, InputUnusable, Quota
from node.stages.links import Links
from tests.web import Page, Web, web_server

MIB = 1 << 20
SECRET = "X-Amz-Signature=0123456789abcdef"


@pytest.fixture
def web() -> Iterator[Web]:
    """A server of strangers."""
    with web_server() as running:
        yield running


def local(most_bytes: int = 64 * MIB) -> Links:
    """Links that may lead to this machine, and do not wait long."""
    return Links(private_allowed=True, most_bytes=most_bytes, longest_wait_s=0.01)


def fetched(links: Links, url: str, folder: Path, bounds: Bounds | None = None) -> tuple[bytes, list[str]]:
    """What came, and what was said."""
    said: list[str] = []
    links.fetch(url, folder / "file", Quota(folder, bounds or Bounds()), said.append)
    return (folder / "file").read_bytes(), said


def refusal(links: Links, url: str, folder: Path) -> str:
    """Why nothing came; never with what may be secret."""
    with pytest.raises(InputUnusable) as told:
        fetched(links, url, folder)
    assert "Signature" not in str(told.value)
    assert "?" not in str(told.value)
    return str(told.value)


@pytest.mark.contract("5 zipurl http")
def test_a_link_is_fetched_with_its_query(web: Web, tmp_path: Path) -> None:
    """It may be signed."""
    web.pages["/a.zip"] = [Page(b"PK archive")]
    assert fetched(local(), web.url(f"/a.zip?{SECRET}"), tmp_path) == (b"PK archive", [])
    assert web.asked == [(f"/a.zip?{SECRET}", f"127.0.0.1:{web.port}")]


@pytest.mark.contract("5 zipurl http")
def test_redirects_are_followed_each_looked_at(web: Web, tmp_path: Path) -> None:
    """Absolute and relative ones."""
    web.pages["/one"] = [Page(status=302, headers={"Location": web.url("/two?x=1")})]
    web.pages["/two"] = [Page(status=307, headers={"Location": "a.zip"})]
    web.pages["/a.zip"] = [Page(b"archive")]
    assert fetched(local(), web.url("/one"), tmp_path)[0] == b"archive"


def test_a_redirect_to_a_forbidden_address_is_refused(web: Web, tmp_path: Path) -> None:
    """The cloud's metadata, also where private addresses are allowed."""
    web.pages["/a.zip"] = [Page(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})]
    assert "169.254.169.254, which is not a public address" in refusal(local(), web.url("/a.zip"), tmp_path)


@pytest.mark.parametrize("further", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd", "http://[::bad/"])
def test_a_redirect_to_no_web_address_is_refused(further: str, web: Web, tmp_path: Path) -> None:
    """Nothing but http(s) is spoken."""
    web.pages["/a.zip"] = [Page(status=302, headers={"Location": further})]
    assert refusal(local(), web.url("/a.zip"), tmp_path).startswith("zipurl")


def test_redirects_without_end_are_refused(web: Web, tmp_path: Path) -> None:
    """After a few."""
    web.pages["/a.zip"] = [Page(status=302, headers={"Location": "/a.zip"})]
    assert "redirects more than 5 times" in refusal(local(), web.url("/a.zip"), tmp_path)
    assert len(web.asked) == 6


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "2130706433"]
)
def test_private_addresses_are_refused_unless_allowed(host: str, web: Web, tmp_path: Path) -> None:
    """However they are written; the setting that allows it is named."""
    closed = Links(private_allowed=False, most_bytes=MIB, longest_wait_s=0.01)
    told = refusal(closed, f"http://{host}:{web.port}/a.zip?{SECRET}", tmp_path)
    assert "SCALEODM_INPUT_PRIVATE=on" in told
    assert web.asked == []


def test_the_address_that_was_judged_is_the_one_that_is_asked(web: Web, tmp_path: Path) -> None:
    """A name that leads elsewhere at the second look does not: it is looked up once, and the Host stays its own."""
    web.pages["/a.zip"] = [Page(b"archive")]
    looks: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        looks.append(f"{host}:{port}")
        return ["127.0.0.1"] if len(looks) == 1 else ["169.254.169.254"]

    links = Links(private_allowed=True, most_bytes=MIB, resolve=resolve, longest_wait_s=0.01)
    assert fetched(links, f"http://images.example:{web.port}/a.zip", tmp_path)[0] == b"archive"
    assert looks == [f"images.example:{web.port}"]
    assert web.asked == [("/a.zip", f"images.example:{web.port}")]


def test_faults_that_may_pass_are_tried_again(web: Web, tmp_path: Path) -> None:
    """An overloaded server, and one that breaks off: what is kept is whole."""
    web.pages["/a.zip"] = [Page(status=503), Page(b"x" * 1000, cut_at=10), Page(status=429), Page(b"y" * 1000)]
    came, said = fetched(local(), web.url(f"/a.zip?{SECRET}"), tmp_path)
    assert came == b"y" * 1000
    assert len(said) == 3
    assert all(f"[WARNING] zipurl: http://127.0.0.1:{web.port} " in line for line in said)
    assert not any("Signature" in line for line in said)


def test_a_server_that_stays_away_ends_the_task_with_a_sentence(web: Web, tmp_path: Path) -> None:
    """After a few tries."""
    web.pages["/a.zip"] = [Page(status=500)]
    assert "answered 500. It was tried 5 times" in refusal(local(), web.url("/a.zip"), tmp_path)
    assert len(web.asked) == 5


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204, 206, 400])
def test_other_answers_than_200_end_it_at_once(status: int, web: Web, tmp_path: Path) -> None:
    """NodeODM would unpack the error page."""
    web.pages["/a.zip"] = [Page(b"" if status == 204 else b"sorry", status=status)]
    assert f"answered {status}; " in refusal(local(), web.url("/a.zip"), tmp_path)
    assert len(web.asked) == 1


def test_more_than_the_limit_is_not_fetched(web: Web, tmp_path: Path) -> None:
    """Neither where the server says so, nor where it does not."""
    web.pages["/a.zip"] = [Page(bytes(2 * MIB))]
    assert "the most that is fetched" in refusal(local(MIB), web.url("/a.zip"), tmp_path)
    assert not (tmp_path / "file").exists()


def test_what_a_server_compresses_on_its_way_is_not_unpacked(web: Web, tmp_path: Path) -> None:
    """A bomb in the transport goes off nowhere."""
    packed = gzip.compress(bytes(MIB))
    web.pages["/a.zip"] = [Page(packed, headers={"Content-Encoding": "gzip"})]
    assert fetched(local(), web.url("/a.zip"), tmp_path)[0] == packed


def test_a_disk_without_room_is_said_before_anything_is_fetched(web: Web, tmp_path: Path) -> None:
    """Elsewhere it may fit."""
    web.pages["/a.zip"] = [Page(b"archive")]
    with pytest.raises(DiskTooSmall):
        fetched(local(), web.url("/a.zip"), tmp_path, Bounds(disk_reserve=1 << 60))


def test_a_large_file_takes_little_memory(web: Web, tmp_path: Path) -> None:
    """40 MiB through a few."""
    web.pages["/a.zip"] = [Page(bytes(40 * MIB))]
    tracemalloc.start()
    try:
        local().fetch(web.url("/a.zip"), tmp_path / "file", Quota(tmp_path), lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size == 40 * MIB
    assert peak < 12 * MIB


@pytest.mark.parametrize("url", ["ftp://x/y", "nonsense", "http://", "http://a:99999/", "http://[::1"])
def test_what_is_no_web_address_is_refused(url: str, tmp_path: Path) -> None:
    """Whatever an object in staging holds."""
    assert refusal(local(), url, tmp_path).startswith("zipurl")
