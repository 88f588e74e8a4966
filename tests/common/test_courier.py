"""The call of a webhook, over real connections, to receivers of every temper."""

import asyncio
import datetime
import ipaddress
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from common.courier import ANSWER_WITHIN_S, AT_ONCE_PER_HOST, Courier
from common.embedded.object_store import ObjectStore
from common.references import Reference
from common.webhooks import Outcome
from tests.common.test_webhooks import receivers_check
from tests.receiver import CLOSE, ENDLESS, ENDLESS_HEADERS, HANG, Receiver, receiving

PAYLOAD = {"uuid": "u", "statusCode": 40}
Make = Callable[..., Courier]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that is there."""
    with receiving() as found:
        yield found


@pytest.fixture
def make(rclone: ObjectStore) -> Iterator[Make]:
    """Makes couriers that may call this machine, and are closed at the end."""
    made: list[Courier] = []

    def courier(**changes: Any) -> Courier:
        usual: dict[str, Any] = {"secret": None, "private_allowed": True, "private_setting": "PRIVATE"}
        made.append(Courier(rclone.storage(), **(usual | changes)))
        return made[-1]

    yield courier
    for each in made:
        each.close()


async def call(courier: Courier, url: str, output: str | None = None) -> Outcome:
    """One try."""
    return await courier.call(url, "d", PAYLOAD, output)


def always(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    """A name server that says so whatever it is asked."""
    return lambda _host, _port: list(addresses)


async def test_a_call_is_a_post_of_json_with_an_id(make: Make, receiver: Receiver) -> None:
    """As NodeODM makes it, and the id."""
    assert await call(make(), receiver.url("/hook?job=7")) == Outcome()
    (called,) = receiver.calls
    assert called.path == "/hook?job=7"
    assert called.document == PAYLOAD | {"images": []}
    assert called.headers["Content-Type"] == called.headers["Accept"] == "application/json"
    assert called.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert called.delivery == "d"
    assert "X-ScaleODM-Signature" not in called.headers


async def test_the_images_of_the_products_are_told(make: Make, receiver: Receiver, rclone: ObjectStore) -> None:
    """Where they can be read; else none are."""
    output = Reference.parse("s3://staging/courier/")
    rclone.storage().write(output / "images.json", b'[{"filename": "a.jpg"}]')
    courier = make()
    assert await call(courier, receiver.url(), str(output)) == Outcome()
    rclone.storage().write(output / "images.json", b'{"not": "a list"}')
    assert await call(courier, receiver.url(), str(output)) == Outcome()
    assert await call(courier, receiver.url(), "s3://staging/nothing-here/") == Outcome()
    assert [each.document["images"] for each in receiver.calls] == [[{"filename": "a.jpg"}], [], []]


@pytest.mark.contract("7 success")
@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 404, 500, 503])
async def test_only_200_is_an_answer(make: Make, receiver: Receiver, status: int) -> None:
    """And a redirect is not followed: it may lead anywhere."""
    receiver.answers = [status]
    outcome = await call(make(), receiver.url())
    assert outcome.problem is not None
    assert f"it answered {status}" in outcome.problem
    assert not outcome.hopeless
    assert [each.path for each in receiver.calls] == ["/hook"]


async def test_a_receiver_that_hangs_is_not_waited_for(make: Make, receiver: Receiver) -> None:
    """Nor is one whose headers never end."""
    courier = make(answer_within_s=0.5)
    began = time.monotonic()
    for temper in (HANG, ENDLESS_HEADERS):
        receiver.answers = [temper]
        outcome = await call(courier, receiver.url())
        assert outcome.problem is not None
    assert time.monotonic() - began < 5
    receiver.answers = [HANG]
    assert await call(courier, receiver.url()) == Outcome("it did not answer within 0.5 s")


async def test_an_answer_without_end_is_not_read(make: Make, receiver: Receiver) -> None:
    """Its status is all that counts."""
    receiver.answers = [ENDLESS]
    began = time.monotonic()
    assert await call(make(), receiver.url()) == Outcome()
    assert time.monotonic() - began < ANSWER_WITHIN_S / 2


async def test_a_receiver_that_breaks_off_or_is_away_is_told_of(make: Make, receiver: Receiver) -> None:
    """In words that name no part of the URL."""
    courier = make()
    receiver.answers = [CLOSE]
    broken = await call(courier, receiver.url("/secret"))
    receiver.go()
    away = await call(courier, receiver.url("/secret"))
    assert broken.problem is not None
    assert away.problem is not None
    assert "broke the connection off" in broken.problem
    assert "cannot be reached" in away.problem
    assert "secret" not in broken.problem + away.problem


@pytest.mark.parametrize(
    "url",
    [
        "abcd",
        "ftp://host.example/secret",
        "http:///secret",
        "http://u:secret@h:99999/",
        "file:///secret",
    ],
)
async def test_a_url_that_leads_nowhere_is_hopeless(make: Make, url: str) -> None:
    """There is no next time; what it holds is not told."""
    outcome = await call(make(), url)
    assert outcome.hopeless
    assert "secret" not in str(outcome.problem)


async def test_a_host_without_address_may_have_one_later(make: Make) -> None:
    """Name servers have bad days."""

    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    for resolve in (unknown, always()):
        outcome = await call(make(resolve=resolve), "http://host.example/")
        assert outcome.problem is not None
        assert "has no address" in outcome.problem
        assert not outcome.hopeless


async def test_credentials_of_the_url_are_sent_and_told_to_nobody_else(
    make: Make, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """As basic authentication, to the host they are for."""
    caplog.set_level("DEBUG")
    receiver.answers = [500]
    outcome = await call(make(), f"http://me:open-sesame@127.0.0.1:{receiver.port}/hook")
    assert receiver.calls[0].headers["Authorization"] == "Basic bWU6b3Blbi1zZXNhbWU="
    assert "@" not in receiver.calls[0].headers["Host"]
    assert "sesame" not in str(outcome.problem)
    assert "sesame" not in "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("common", "router", "node"))
    )


async def test_cookies_are_not_kept(make: Make, receiver: Receiver) -> None:
    """Two hosts may share an address."""
    courier = make()
    for _ in range(2):
        await call(courier, receiver.url())
    assert "Cookie" not in receiver.calls[1].headers


@pytest.mark.contract("7 signed")
async def test_a_secret_signs_what_is_sent(make: Make, receiver: Receiver) -> None:
    """Checked by the function that the document gives to receivers."""
    await call(make(secret=SecretStr("s3cret")), receiver.url())
    (called,) = receiver.calls
    assert receivers_check()(called.headers["X-ScaleODM-Signature"], called.body, "s3cret")
    assert not receivers_check()(called.headers["X-ScaleODM-Signature"], called.body, "other")


@pytest.mark.contract("7 private")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]", "[::1]"])
async def test_private_addresses_are_refused_unless_allowed(make: Make, receiver: Receiver, host: str) -> None:
    """However they are written; with the setting that would allow them."""
    outcome = await call(make(private_allowed=False), f"http://{host}:{receiver.port}/hook")
    assert outcome.problem is not None
    assert "not a public address" in outcome.problem
    assert "PRIVATE=on" in outcome.problem
    assert receiver.calls == []


async def test_metadata_is_refused_even_where_private_addresses_are_allowed(make: Make) -> None:
    """The name may be a harmless one."""
    for address in ("169.254.169.254", "fd00:ec2::254"):
        outcome = await call(make(resolve=always(address)), "http://harmless.example/latest/meta-data/")
        assert "not a public address" in str(outcome.problem)


async def test_a_host_with_one_refused_address_is_refused(make: Make, receiver: Receiver) -> None:
    """Else it would be luck which one is called."""
    courier = make(private_allowed=False, resolve=always("8.8.8.8", "127.0.0.1"))
    assert "not a public address" in str((await call(courier, f"http://two.example:{receiver.port}/")).problem)
    assert receiver.calls == []


async def test_the_address_that_was_looked_at_is_the_one_that_is_called(make: Make, receiver: Receiver) -> None:
    """One look for each try: a name server that says something else the next time changes nothing."""
    looks: list[str] = []

    def rebinding(host: str, _port: int) -> list[str]:
        looks.append(host)
        return ["127.0.0.1"] if len(looks) == 1 else ["169.254.169.254"]

    assert await call(make(resolve=rebinding), f"http://hooks.example:{receiver.port}/hook") == Outcome()
    assert looks == ["hooks.example"]
    assert receiver.calls[0].headers["Host"] == f"hooks.example:{receiver.port}"


async def test_the_next_address_serves_where_the_first_does_not(make: Make, receiver: Receiver) -> None:
    """Half of the world has an IPv6 address that does not work."""
    courier = make(resolve=always("::1", "127.0.0.2", "127.0.0.1"))
    assert await call(courier, f"http://hooks.example:{receiver.port}/hook") == Outcome()
    assert len(receiver.calls) == 1


async def test_a_name_server_that_hangs_holds_up_nobody_else(make: Make, receiver: Receiver) -> None:
    """Neither other webhooks, nor what else the program looks up and reads in threads."""
    courier = make(answer_within_s=6, resolve=hanging_for_bad_names)
    bad = [asyncio.create_task(call(courier, f"http://bad-{number}.example/")) for number in range(12)]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    assert await call(courier, receiver.url()) == Outcome()
    await asyncio.to_thread(lambda: None)
    assert time.monotonic() - began < 5
    assert {outcome.problem for outcome in await asyncio.gather(*bad)} == {"it did not answer within 6 s"}


def hanging_for_bad_names(host: str, _port: int) -> list[str]:
    """A resolver as glibc's is with a name server that does not answer."""
    if host.startswith("bad"):
        time.sleep(7)
    return ["127.0.0.1"]


async def test_of_one_host_only_a_few_are_called_at_once(make: Make) -> None:
    """And while they hang, another host's turn comes at once."""
    courier = make()
    inside = 0
    most = 0

    async def visit(url: str) -> None:
        nonlocal inside, most
        async with courier.turn(url):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.2)
            inside -= 1

    visits = [asyncio.create_task(visit(f"https://SLOW.example/{n}")) for n in range(3 * AT_ONCE_PER_HOST)]
    await asyncio.sleep(0)
    async with courier.turn("https://fast.example/"):
        assert not any(each.done() for each in visits), "nobody else's turn had to be over first"
    await asyncio.gather(*visits)
    assert most == AT_ONCE_PER_HOST


def certificate(folder: Path, *names: x509.GeneralName) -> Path:
    """A certificate with its key, that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "receiver.pem"
    path.write_bytes(key.private_bytes(*plain) + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (x509.DNSName("hooks.example"), None),
        (x509.DNSName("other.example"), "cannot be reached"),
        (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), "cannot be reached"),
    ],
)
async def test_the_certificate_must_be_the_hosts(
    make: Make, tmp_path: Path, name: x509.GeneralName, problem: str | None
) -> None:
    """Though its address is what is called."""
    path = certificate(tmp_path, name)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, asked_for, _context: asked.append(asked_for)
    courier = make(tls=ssl.create_default_context(cafile=str(path)), resolve=always("127.0.0.1"))
    with receiving(server) as receiver:
        outcome = await call(courier, f"https://hooks.example:{receiver.port}/hook")
        assert set(asked) == {"hooks.example"}
        if problem is None:
            assert outcome == Outcome()
        else:
            assert problem in str(outcome.problem)
            assert receiver.calls == []
