"""`scaleodm doctor`: what is wrong with this installation, one line for each thing that was looked at."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec

from common.checks import Check, Grade, note, ok, parsed, problem
from common.command.access import JOIN_TOKEN, TAILNET, let_in
from common.command.endings import Exit, Trouble
from common.command.session import Session, asking
from common.command.shown import Output
from common.tailnet import goes_over_tailnet

_EXAMINE_S = 60.0
_STYLES = {Grade.OK: "green", Grade.NOTE: "yellow", Grade.PROBLEM: "red"}
_NEEDS = {"router": "asyncpg", "node": "psutil"}
"""What shows that a program's extra is installed."""


@asking
def doctor(session: Session) -> None:
    """Say what is wrong with this installation. Looks at whatever is set here: router, node, S3, and the address that
    commands speak to."""
    found: list[Check] = []
    for check in _checks(session):
        found.append(check)
        if not session.output.as_json:
            _show(session.output, check)
    problems = [each for each in found if each.grade is Grade.PROBLEM]
    if session.output.as_json:
        session.output.document({"healthy": not problems, "checks": [asdict(each) for each in found]})
    if problems:
        many = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise Trouble(Exit.FAILED, f"{many} found.")
    session.output.note(f"{len(found)} things looked at; nothing is wrong.")


def _checks(session: Session) -> Iterator[Check]:
    is_anything_set = False
    for package in ("router", "node"):
        if any(name.startswith(f"SCALEODM_{package.upper()}_") for name in os.environ):
            is_anything_set = True
            yield from _examined(package)
    yield from _joining()
    if is_anything_set or "SCALEODM_STAGING" in os.environ:
        from common.command.examining import s3_checks

        yield from s3_checks()
        is_anything_set = True
    try:
        api = session.api
    except Trouble:
        # On a machine that has settings only, there may be nobody to speak to.
        if not is_anything_set or session.given.url or session.given.data:
            raise
        yield note("router", "no address is known here, so none was called (SCALEODM_URL, or scaleodm login)")
        return
    from common.command.examining import router_checks

    yield from router_checks(api)


def _joining() -> Iterator[Check]:
    """Whether a node with these settings would be let in, by each router that it names."""
    token = os.environ.get(JOIN_TOKEN)
    routers = [each.strip() for each in os.environ.get("SCALEODM_NODE_ROUTER_URL", "").split(",") if each.strip()]
    over_tailnet = goes_over_tailnet(os.environ.get(TAILNET, "auto"), routers)
    for address in routers if token or over_tailnet else ():
        try:
            let_in([address], token)
        except Trouble as trouble:
            yield problem("joining", str(trouble))
        else:
            yield ok("joining", f"{address} would let this node in")


def _examined(package: str) -> Iterator[Check]:
    """A program examines itself: only it can import what it needs."""
    if find_spec(package) is None or find_spec(_NEEDS[package]) is None:
        yield note(package, f"it is set here, but not installed (scaleodm[{package}]): not looked into")
        return
    argv = [sys.executable, "-m", f"{package}.checks"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_EXAMINE_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        yield problem(package, f"its examination took more than {_EXAMINE_S:.0f} s", "Something it needs hangs.")
        return
    found = parsed(done.stdout)
    yield from found
    if done.returncode or not found:
        last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
        yield problem(package, f"its examination broke off: {last[0]}")


def _show(output: Output, check: Check) -> None:
    text = f"{check.text.rstrip('.')}. {check.advice}" if check.advice else check.text
    output.graded(check.grade.value, _STYLES[check.grade], check.name, text)
