"""A NodeODM client for tests that shows the wire as it is."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from common.references import Reference
from common.storage import Storage
from tests.waiting import wait_until

JPEG = b"\xff\xd8\xff\xe0 not much of a picture"
ENDED = {30, 40, 50}


@dataclass(frozen=True)
class Wire:
    """One NodeODM API and a token for it."""

    url: str
    token: str
    http: httpx.Client

    def get(self, path: str, **query: str) -> httpx.Response:
        """GET, with the token as NodeODM's clients send it."""
        return self.http.get(self.url + path, params={"token": self.token, **query})

    def post(self, path: str, **content: Any) -> httpx.Response:
        """POST, likewise."""
        return self.http.post(self.url + path, params={"token": self.token}, **content)

    def error(self, path: str, **content: Any) -> str:
        """The error that a POST gets."""
        answer = self.post(path, **content)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["error"])

    def init(self, fields: dict[str, str] | None = None, uuid: str | None = None) -> str:
        """`/task/new/init` as PyODM sends it."""
        parts = {name: (None, value) for name, value in (fields or {"name": "a task"}).items()}
        answer = self.post("/task/new/init", files=parts, headers={"set-uuid": uuid} if uuid else None).json()
        assert "uuid" in answer, answer
        return str(answer["uuid"])

    def upload(self, uuid: str, *files: tuple[str, bytes]) -> dict[str, Any]:
        """`/task/new/upload`: several files in one request."""
        parts = [("images", (name, content, "image/jpeg")) for name, content in files]
        answer: dict[str, Any] = self.post(f"/task/new/upload/{uuid}", files=parts).json()
        return answer

    def commit(self, uuid: str) -> dict[str, Any]:
        """`/task/new/commit`."""
        answer: dict[str, Any] = self.post(f"/task/new/commit/{uuid}").json()
        return answer

    def task(self, orders: str = "", options: list[dict[str, Any]] | None = None, **fields: str) -> str:
        """A whole new task of two images, with orders for the stand-in engine."""
        uuid = self.init({"name": "a task", "options": json.dumps(options or []), **fields})
        files = [("a.jpg", JPEG + b"a"), ("b.jpg", JPEG + b"b")]
        if orders:
            files.append(("orders.txt", orders.encode()))
        assert self.upload(uuid, *files) == {"success": True}
        assert self.commit(uuid) == {"uuid": uuid}
        return uuid

    def by_reference(self, storage: Storage, orders: str = "", **fields: Any) -> tuple[str, Reference]:
        """A new task of one image that lies in S3, with orders for the stand-in engine; gives its uuid and folder."""
        root = Reference.parse(f"s3://staging/{uuid4()}/")
        storage.write(root / "a.jpg", JPEG)
        if orders:
            storage.write(root / "gcp_list.txt", orders.encode())
        answer = self.post("/task/new", json={"readS3Path": str(root), **fields}).json()
        assert "uuid" in answer, answer
        return str(answer["uuid"]), root

    def info(self, uuid: str, **query: str) -> dict[str, Any]:
        """`/task/{uuid}/info`."""
        answer: dict[str, Any] = self.get(f"/task/{uuid}/info", **query).json()
        return answer

    def code(self, uuid: str) -> int:
        """The task's status code."""
        return int(self.info(uuid)["status"]["code"])

    def output(self, uuid: str, **query: str) -> Any:
        """`/task/{uuid}/output`."""
        return self.get(f"/task/{uuid}/output", **query).json()

    def ended(self, uuid: str, within_s: float = 60.0) -> dict[str, Any]:
        """The task's info once it has ended."""
        wait_until(lambda: self.code(uuid) in ENDED, f"task {uuid} to end", within_s)
        return self.info(uuid)

    def completed(self, uuid: str, within_s: float = 60.0) -> dict[str, Any]:
        """The same, which must be an end in success; else with why it was not, and the console's last lines."""
        info = self.ended(uuid, within_s)
        assert info["status"]["code"] == 40, f"{json.dumps(info)}\n" + "\n".join(self.output(uuid)[-20:])
        return info

    def running(self, uuid: str) -> dict[str, Any]:
        """The task's info once its engine works."""
        wait_until(lambda: self.info(uuid)["processingTime"] >= 0, f"the engine of {uuid} to begin")
        return self.info(uuid)

    def says(self, uuid: str, line: str) -> list[str]:
        """The task's console once it holds this line."""
        return wait_until(
            lambda: lines if line in (lines := self.output(uuid)) else None, f"task {uuid} to say {line!r}"
        )

    def act(self, what: str, uuid: str, **fields: str) -> dict[str, Any]:
        """Cancel, remove or restart, as PyODM posts it."""
        answer: dict[str, Any] = self.post(f"/task/{what}", data={"uuid": uuid, **fields}).json()
        return answer
