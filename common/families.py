"""Split tasks: which parts belong to which attempt of which task, and the token that opens no more than these. Pure.

ODM cuts a large survey into parts and sends them, as tasks of their own, to the address in `--sm-cluster`. The attempt
that does so calls the router with a token that both sides can derive from the secret that node and router share: so it
is sent nowhere and kept nowhere, and it is good as long as that attempt is under way.
"""

import hmac
import math
import re
from dataclasses import dataclass

from common.nodeodm.options import Setting, parse_int
from common.tasks import ACTIVE, Task
from common.tokens import derived

SPLIT = "split"
CLUSTER = "sm-cluster"
NETRC_LOGIN = "scaleodm"
_NEVER = 999_999
"""ODM's own default of `split`, by which nothing is ever split."""
_PREFIX = "scaleodm-parts."
_TOKEN = re.compile(r"scaleodm-parts\.([0-9A-Za-z-]{1,64})\.(\d{1,9})\.([0-9A-Za-z-]{1,64})\.([0-9a-f]{64})")
_TOKENS = re.compile(r"scaleodm-parts\.[0-9A-Za-z.-]+")


@dataclass(frozen=True, slots=True)
class Family:
    """One attempt of a split task, and with it all the parts that it sends."""

    uuid: str
    attempt: int
    node_id: str
    """The node that has the attempt. It is part of the name: no node can speak for an attempt of another."""

    def __str__(self) -> str:
        """As it stands on record with each part."""
        return f"{self.uuid} {self.attempt} {self.node_id}"

    @classmethod
    def parse(cls, text: str) -> "Family | None":
        """Read it back; None for the empty text of a task that is nobody's part."""
        if not text:
            return None
        uuid, attempt, node_id = text.split(" ")
        return cls(uuid, int(attempt), node_id)


def family_token(family: Family, secret: str) -> str:
    """What opens the router to this family. `secret`: of the node that has the attempt."""
    return f"{_PREFIX}{family.uuid}.{family.attempt}.{family.node_id}.{_proof(family, secret)}"


def claimed_family(token: str) -> Family | None:
    """Whose token this says it is; None where it is a token of another kind."""
    found = _TOKEN.fullmatch(token)
    return Family(found[1], int(found[2]), found[3]) if found else None


def is_token_of(token: str, family: Family, secret: str) -> bool:
    """Whether the token is what this family was given."""
    return hmac.compare_digest(token.encode(), family_token(family, secret).encode())


def is_current(family: Family, parent: Task) -> bool:
    """Whether an attempt is under way, as far as is known, so that its parts are wanted. A part has none itself.

    One that was given up because its node fell silent is not: its parts would hold the slots that its task waits for.
    """
    return parent.attempt == family.attempt and parent.state in ACTIVE and not parent.family


def without_family_tokens(text: str) -> str:
    """`text` with every such token blotted out."""
    return _TOKENS.sub(f"{_PREFIX}***", text) if _PREFIX in text else text


def _proof(family: Family, secret: str) -> str:
    return derived(secret, f"parts of task {family.uuid}, attempt {family.attempt}")


def netrc(host: str, token: str) -> str:
    """The file by which PyODM's HTTP library sends a token that stands in no URL: `NETRC` names it.

    It sends it to whatever port of this host, and to no other host, also where it is redirected.
    """
    return f"machine {host} login {NETRC_LOGIN} password {token}\n"


def splits(options: tuple[Setting, ...], images_count: int) -> bool:
    """Whether ODM will cut a task into parts: it holds more images than `split` says (contract 9.2).

    The images in a zip are not counted before it is unpacked: 0 may be any number.
    """
    asked = next((option.value for option in options if option.name == SPLIT), None)
    most = parse_int(asked) if asked is not None else math.nan
    return most < _NEVER and (images_count == 0 or images_count > most)
