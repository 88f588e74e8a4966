"""Where a command speaks to, and whose token it takes along."""

import json
import stat
from pathlib import Path

import pytest

from common.command.endings import Exit, Trouble
from common.command.place import config_file, find_place, keep_login, split_address
from common.embedded.children import free_port
from common.embedded.stack import Stack
from tests.common.command.running import Shell


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and an empty folder to work in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("SCALEODM_URL", "SCALEODM_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stack_in(folder: Path) -> Path:
    """What a stack leaves in its folder."""
    folder.mkdir()
    kept = {"router_url": "http://stack:1", "admin_token": "of-stack-admin", "user_token": "of-stack-user"}
    (folder / "secrets.json").write_text(json.dumps(kept))
    return folder


def test_options_go_before_the_environment_before_a_login_before_a_stack(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other."""
    with pytest.raises(Trouble, match="No router is known here") as none:
        find_place(None, None, None)
    assert none.value.code is Exit.USAGE
    stack_in(home / "scaleodm-data")
    place = find_place(None, None, None)
    assert (place.url, place.token, place.user_token) == ("http://stack:1", "of-stack-admin", "of-stack-user")
    keep_login("http://kept:1", "of-login")
    assert (find_place(None, None, None).url, find_place(None, None, None).token) == ("http://kept:1", "of-login")
    monkeypatch.setenv("SCALEODM_URL", "http://environment:1")
    monkeypatch.setenv("SCALEODM_TOKEN", "of-environment")
    assert find_place(None, None, None).token == "of-environment"
    assert find_place("http://option:1/", "of-option", None).url == "http://option:1"
    assert find_place(None, None, home / "scaleodm-data").token == "of-stack-admin"


def test_a_kept_token_goes_nowhere_else(home: Path) -> None:
    """Neither a login's nor a stack's."""
    stack_in(home / "scaleodm-data")
    keep_login("http://kept:1", "of-login")
    assert find_place("http://kept:1", None, None).token == "of-login"
    assert find_place("http://stack:1", None, None).token == "of-stack-admin"
    assert find_place("http://elsewhere:1", None, None).token is None


def test_a_login_is_readable_by_its_owner_alone_or_not_used() -> None:
    """As ssh has it with keys."""
    path = keep_login("http://kept:1", "of-login")
    assert path == config_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(Trouble, match=r"others can read it. Run: chmod 600"):
        find_place(None, None, None)


@pytest.mark.parametrize(
    ("raw", "url", "token"),
    [
        ("http://h:1?token=abc", "http://h:1", "abc"),
        ("h:1", "http://h:1", None),
        ("https://h/prefix/", "https://h/prefix", None),
        ("http://[::1]:3000/", "http://[::1]:3000", None),
    ],
)
def test_an_address_is_taken_as_people_write_it(raw: str, url: str, token: str | None) -> None:
    """Also as `scaleodm up` prints it."""
    assert split_address(raw) == (url, token)


@pytest.mark.parametrize("raw", ["", "ftp://h", "http://", "http://h:99999", "http://h:x"])
def test_what_is_no_address_is_refused(raw: str) -> None:
    """Without its token, where it has one."""
    with pytest.raises(Trouble, match="is no address; expected such as") as refused:
        split_address(raw + "?token=very-secret")
    assert "very-secret" not in str(refused.value)


def test_a_folder_without_a_stack_says_how_to_start_one(home: Path) -> None:
    """Named or not."""
    with pytest.raises(Trouble, match="No stack has ever run in"):
        find_place(None, None, home / "nowhere")
    (home / "scaleodm-data").mkdir()
    (home / "scaleodm-data/secrets.json").write_text("{broken")
    with pytest.raises(Trouble, match="cannot be read"):
        find_place(None, None, None)


def test_a_running_stack_is_found_by_its_folder(bare: Shell, federation: Stack) -> None:
    """What is submitted there is a client's, not the administrator's."""
    folder = str(federation.secrets_file.parent)
    assert "node-1" in bare("nodes", "--data", folder).went_well().out
    assert "node-1" in bare("nodes", "--data", folder, "list").went_well().out
    assert "first user" in bare("tokens", "--data", folder).went_well().out


def test_login_tries_the_token_before_it_keeps_it(bare: Shell, federation: Stack) -> None:
    """Piped in; then everything works without a word, until logout."""
    bare("login", federation.router_url, stdin="wrong\n").refused(4, "does not know this token")
    bare("nodes").refused(2, "No router is known here")
    said = bare("login", federation.router_url, stdin=federation.admin_token + "\n").went_well()
    assert "takes this admin token" in said.out
    assert federation.admin_token not in said.out + said.err
    assert "node-1" in bare("nodes").went_well().out
    assert bare("logout", "--json").went_well().json["removed"] is True
    bare("nodes").refused(2, "No router is known here")


def test_nobody_at_the_address_is_exit_code_3(bare: Shell) -> None:
    """In a sentence that says where the address is from."""
    url = f"http://127.0.0.1:{free_port()}"
    told = bare.under(SCALEODM_URL=url)("tasks", "--json").refused(3, f"Nobody answers at {url} (from SCALEODM_URL)")
    assert "connection refused" in told
    bare("tasks", "--url", "http://no-such-host.invalid").refused(3, "no-such-host.invalid")


def test_no_token_is_exit_code_4_with_how_to_give_one(bare: Shell, federation: Stack) -> None:
    """Apart from one that is not known."""
    bare("tasks", "--url", federation.router_url).refused(4, "wants a token. Set SCALEODM_TOKEN")
    bare("tasks", "--url", federation.router_url, "--token", "x").refused(4, "does not know this token")
