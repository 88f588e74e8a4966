"""Who is signed in: a sealed cookie, which every replica can open, and of which nothing is kept here."""

import base64
import json
from collections.abc import Callable
from datetime import timedelta

from cryptography.fernet import Fernet, InvalidToken

from common.tokens import Caller, Kind, derived


class Sessions:
    """Seals and opens session cookies. Whose token has been revoked is no longer signed in."""

    def __init__(self, secret_key: str, holder: Callable[[str], Caller | None], lasts: timedelta) -> None:
        """`secret_key`: the router's; `holder`: whose token has this hash, now."""
        self._fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(derived(secret_key, "dashboard sessions"))))
        self._holder = holder
        self.lasts = lasts
        # Cookies know no ports: two routers on one host must not sign each other's people out.
        self.cookie = f"scaleodm_session_{derived(secret_key, 'dashboard cookie')[:8]}"

    def begin(self, token_hash: str, now: float) -> str:
        """A session of the token with this hash, from `now`, in seconds since the epoch."""
        told = json.dumps({"token": token_hash, "until": now + self.lasts.total_seconds()})
        return self._fernet.encrypt(told.encode()).decode()

    def caller(self, sealed: str | None, now: float) -> Caller | None:
        """The administrator whose session this is; None where it is over, forged, or its token was revoked."""
        if not sealed:
            return None
        try:
            told = json.loads(self._fernet.decrypt(sealed.encode()))
        except InvalidToken:
            return None
        caller = self._holder(told["token"]) if now < told["until"] else None
        return caller if caller is not None and caller.kind is Kind.ADMIN else None
