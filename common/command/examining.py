"""What `scaleodm doctor` looks at: S3 by using it, a router by asking it, its nodes by calling on them."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import httpx

from common.checks import Check, Grade, clock, note, ok, problem
from common.command.access import about
from common.command.api import Api, why
from common.command.endings import Exit, Trouble
from common.command.nodes import standing
from common.references import Reference
from common.settings import S3Settings, SettingsUnusable, read_settings
from common.storage import AccessRefused, BucketMissing, Storage, StorageFault, StorageUnreachable

_CALL_S = 5.0
_FOLDER = ".scaleodm-doctor"
_RESTING = {
    "late": "It was not heard of for a while: is it running, and does it reach the router?",
    "lost": "Start it again, or take it out: scaleodm nodes remove {name} --force",
    "quarantined": "Look into its log, then: scaleodm nodes trust {name}",
}


def date_of(answer: httpx.Response, asked: float) -> float | None:
    """Seconds that the clock behind an answer is ahead of ours; None where it does not tell."""
    raw = answer.headers.get("date")
    if raw is None:
        return None
    try:
        said = parsedate_to_datetime(raw).timestamp()
    except ValueError:
        return None
    # The header counts whole seconds, and was written some time between asking and now.
    now = time.time()
    return said - now if said > now else min(0.0, said + 1 - asked)


# S3


def s3_checks() -> Iterator[Check]:
    """With the settings of this environment, in a folder of their own below staging, which goes again."""
    try:
        settings = read_settings(S3Settings)
        staging = settings.staging_reference
    except (SettingsUnusable, ValueError) as unusable:
        told = "; ".join(line.strip() for line in str(unusable).splitlines()[1:]) or str(unusable)
        yield problem("S3 settings", told, "docs/settings.md tells of each one.")
        return
    yield ok("S3 settings", f"readable; staging is {staging}")
    storage = Storage.from_settings(settings)
    probe = staging / f"{_FOLDER}/{secrets.token_hex(8)}"
    reached = _rights(storage, staging, probe)
    yield from reached
    if any(each.grade is Grade.PROBLEM and each.name == "S3" for each in reached):
        return
    try:
        if all(each.grade is not Grade.PROBLEM for each in reached):
            yield _conditions(storage, probe)
            yield from _public(storage, settings, probe)
    finally:
        _forget(storage, probe)
    yield from _s3_clock(settings)


def _rights(storage: Storage, staging: Reference, probe: Reference) -> list[Check]:
    """Write, read, list, delete: each as the system does it. One that the store does not answer ends it."""
    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("write", lambda: storage.write(probe, b"doctor")),
        ("read", lambda: storage.read(probe)),
        ("list", lambda: list(storage.listing(staging / f"{_FOLDER}/"))),
        ("delete", lambda: storage.delete(probe)),
    )
    problems: list[Check] = []
    for step, work in steps:
        try:
            work()
        except (StorageUnreachable, BucketMissing) as fault:
            advice = "Make the bucket, or check SCALEODM_STAGING." if isinstance(fault, BucketMissing) else _S3_ADVICE
            return [problem("S3", str(fault), advice)]
        except StorageFault as fault:
            told = "S3 refuses these keys" if isinstance(fault, AccessRefused) else str(fault)
            problems.append(problem(f"S3 {step}", f"{told} to {step} in {staging}", _RIGHTS_ADVICE))
            if step == "write":
                problems += _reads(storage, staging)
                break
    if problems:
        return problems
    return [ok("S3", f"may write, read, list and delete in {staging}")]


_S3_ADVICE = "Check AWS_ENDPOINT_URL_S3. Is it running?"
_RIGHTS_ADVICE = "Give the keys s3:PutObject, s3:GetObject, s3:ListBucket and s3:DeleteObject there."


def _reads(storage: Storage, staging: Reference) -> list[Check]:
    """Whether keys that may not write may list at least: read-only keys look so, and wrong ones do not."""
    try:
        next(iter(storage.listing(staging)), None)
    except StorageFault:
        return []
    return [note("S3 list", "they may list: these are keys for reading only")]


def _conditions(storage: Storage, probe: Reference) -> Check:
    try:
        storage.write(probe, b"one")
        tag = storage.tag(probe)
        storage.write(probe, b"two")
        held = not storage.write_if(probe, b"three", tag)
        fresh = storage.write_if(probe, b"four", storage.tag(probe))
    except StorageFault as fault:
        return note("S3 conditions", f"could not be tried: {fault}")
    if held and fresh:
        return ok("S3 conditions", "writes are made on condition, or at least checked before and after")
    return note("S3 conditions", "writes on condition do not hold; docs/federation.md tells what that means")


def _public(storage: Storage, settings: S3Settings, probe: Reference) -> Iterator[Check]:
    """By a link as clients get it."""
    where = settings.public_endpoint or settings.endpoint or "AWS"
    try:
        storage.write(probe, b"doctor")
        answer = httpx.get(storage.presigned_get(probe, 60, "doctor"), headers={"range": "bytes=0-2"}, timeout=_CALL_S)
    except (httpx.HTTPError, httpx.InvalidURL) as trouble:
        yield problem(
            "S3 links",
            f"clients cannot be sent to {where} for their products: {why(trouble)}",
            "Set SCALEODM_S3_PUBLIC_ENDPOINT_URL to an address by which they reach S3 (it was tried from here).",
        )
        return
    except StorageFault as fault:
        yield problem("S3 links", str(fault))
        return
    if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
        yield ok("S3 links", f"{where} gives products by links, with ranges")
    elif answer.status_code == HTTPStatus.OK:
        yield note("S3 links", f"{where} gives products by links, without ranges: downloads cannot be resumed")
    else:
        yield problem(
            "S3 links",
            f"{where} answers a link with status {answer.status_code}",
            "Does SCALEODM_S3_PUBLIC_ENDPOINT_URL lead to the same S3, unchanged by a proxy?",
        )


def _forget(storage: Storage, probe: Reference) -> None:
    try:
        storage.delete(probe)
    except StorageFault:
        return


def _s3_clock(settings: S3Settings) -> Iterator[Check]:
    endpoint = settings.endpoint or "https://s3.amazonaws.com"
    asked = time.time()
    try:
        answer = httpx.get(endpoint, timeout=_CALL_S)
    except httpx.HTTPError:
        return
    ahead = date_of(answer, asked)
    if ahead is not None:
        yield clock("S3 clock", ahead)


# A router


def router_checks(api: Api) -> Iterator[Check]:
    """What it says of itself, of this token and of its nodes."""
    place = api.place
    asked = time.time()
    try:
        answer = api.http.get(f"{place.url}/readyz", timeout=_CALL_S)
    except httpx.HTTPError as trouble:
        yield problem(
            "router", f"nobody answers at {place.url} (from {place.origin}): {why(trouble)}", "Is it running there?"
        )
        return
    program, failing = _readiness(answer)
    yield from (problem(program, f"{place.url} says of {name}: {says}", "Look into its log.") for name, says in failing)
    if answer.status_code == HTTPStatus.NOT_FOUND or program == "node":
        yield from _node_alone(api)
        return
    if not failing and answer.status_code != HTTPStatus.OK:
        yield problem("router", f"{place.url} answers and cannot work: {answer.text[:200]}", "Look into its log.")
    elif not failing:
        yield ok("router", f"{place.url} answers, and all that it needs does")
    ahead = date_of(answer, asked)
    if ahead is not None:
        yield clock("router clock", ahead)
    yield from _by_token(api)


def _readiness(answer: httpx.Response) -> tuple[str, list[tuple[str, str]]]:
    """Which program has answered `/readyz`, and what it says of what fails; an earlier release says less."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return "router", []
    needed = document.get("dependencies")
    found = needed.items() if isinstance(needed, dict) else ()
    failing = [(name, str(each.get("says"))) for name, each in found if each.get("state") == "failing"]
    return str(document.get("program", "router")), failing


def _node_alone(api: Api) -> Iterator[Check]:
    try:
        info = api.get("/info")
    except Trouble as trouble:
        yield problem("node", str(trouble))
        return
    yield ok("node", f"{api.place.url} is a node: {info['engine']} {info['engineVersion']}, API {info['version']}")


def _by_token(api: Api) -> Iterator[Check]:
    try:
        told = about(api)
    except Trouble as trouble:
        advice = "" if trouble.code is Exit.NOT_ALLOWED else "Look into its log."
        yield problem("token", str(trouble), advice)
        return
    if told is None:
        yield problem("router release", "it does not say: it is older than this command", "Bring both to one release.")
        return
    yield ok("token", f"it is known there: {told['caller']['kind']} {told['caller']['name']}")
    yield _release("router release", "the router", str(told["release"]))
    if (database := told.get("database")) is not None:
        yield from _database(database)
    if told["caller"]["kind"] != "admin":
        yield note("nodes", "only an admin token shows them")
        return
    try:
        yield from node_checks(api.get("/admin/nodes"))
    except Trouble as trouble:
        yield problem("nodes", str(trouble))


def _release(name: str, whose: str, release: str) -> Check:
    ours = version("scaleodm")
    if release == ours:
        return ok(name, f"{release}, as here")
    return problem(name, f"{whose} is {release or 'older'}, this is {ours}", "Bring both to the same release.")


def _database(told: dict[str, Any]) -> Iterator[Check]:
    if "error" in told:
        yield problem("router database", f"it does not answer the router ({told['error']})", "Is Postgres running?")
        return
    if told["migration"] != told["newest"]:
        yield problem(
            "router database",
            f"its tables are at {told['migration']}, the router's release is at {told['newest']}",
            "Another release runs on the same database; bring all routers to one.",
        )
    else:
        yield ok("router database", f"Postgres {told['version']}, tables at {told['migration']}")
    yield clock("database clock", float(told["ahead"]), "the router's")


def node_checks(nodes: Sequence[dict[str, Any]]) -> Iterator[Check]:
    """How the router sees each, and whether it answers from here."""
    if not nodes:
        yield problem("nodes", "none has joined, so no task can be processed", "Start one: scaleodm join URL")
        return
    for node in nodes:
        yield _standing(node)
        yield from _call(node)
    yield from _engines(nodes)


def _standing(node: dict[str, Any]) -> Check:
    name, state = f"node {node['name']}", standing(node)
    if state in _RESTING:
        more = f": {node['quarantine']}" if node["quarantine"] else ""
        return problem(name, f"the router has it as {state}{more}", _RESTING[state].format(name=node["name"]))
    if state != "healthy":
        return note(name, f"it gets no new work: it is {state}" if state != "probation" else "it is on probation")
    return ok(name, f"healthy, {node['placed'] + node['direct']} of {node['slots']} slots taken")


def _call(node: dict[str, Any]) -> Iterator[Check]:
    """Its address is for the router; that it does not lead there from here is worth knowing, and no more."""
    name = f"node {node['name']}"
    is_foreign = node["kind"] == "foreign"
    path = "/info" if is_foreign else "/federation/identity"
    asked = time.time()
    try:
        answer = httpx.get(node["url"].rstrip("/") + path, params={"nonce": secrets.token_hex(8)}, timeout=_CALL_S)
    except (httpx.HTTPError, httpx.InvalidURL) as trouble:
        host = urlsplit(node["url"]).netloc
        yield note(f"{name} address", f"{host} does not answer from here ({why(trouble)}); the router may reach it")
        return
    ahead = date_of(answer, asked)
    if ahead is not None:
        found = clock(f"{name} clock", ahead)
        if found.grade is Grade.PROBLEM:
            yield found
    if is_foreign:
        return
    try:
        told = answer.json()
    except ValueError:
        told = {}
    if not isinstance(told, dict) or told.get("name") != node["name"]:
        yield note(f"{name} address", f"{node['url']} leads to something else from here")
        return
    release = _release(f"{name} release", "it", str(told.get("release", "")))
    if release.grade is Grade.PROBLEM:
        yield release


def _engines(nodes: Sequence[dict[str, Any]]) -> Iterator[Check]:
    by_version: dict[str, list[str]] = {}
    for node in nodes:
        by_version.setdefault(f"{node['engine']} {node['engineVersion']}", []).append(node["name"])
    if len(by_version) > 1:
        told = "; ".join(f"{engine} on {', '.join(names[:3])}" for engine, names in sorted(by_version.items()))
        yield note("engines", f"they differ, and so may products: {told}")
