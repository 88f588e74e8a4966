"""What options an engine's image really has: asked of the image itself, by a small Job at the node's start.

The answer is kept in a ConfigMap, by the digest of the image, so that a restarted node has it at once.
"""

import asyncio
import hashlib
import json
import logging
from dataclasses import replace
from typing import Any

from node.cluster.api import Cluster, ClusterFault, Object, ObjectConflict, ObjectGone
from node.engines import EngineInUse
from node.engines.odm import options_of_parser
from node.manifests import DOMAIN, Site, label_value
from node.settings import JobSettings

logger = logging.getLogger(__name__)

WITHIN_S = 900
"""How long the image may take to be pulled and to answer."""
LOOK_EVERY_S = 2.0
ASK_AGAIN_S = (2, 10, 60, 300, 1800, 3600)
"""Waits before an image is asked again; the last one repeats."""
MOST_ANSWERS = 3
"""How often an image may answer with something else before it is asked no more."""
IMAGE = f"{DOMAIN}/image"
DIGEST = f"{DOMAIN}/digest"
_BEGIN, _END = "---options---", "---end---"

ASK = f'''
import argparse, json, sys
sys.path.insert(0, "/code")
from opendm import config

class Enough(Exception):
    pass

class Parser(argparse.ArgumentParser):
    def parse_known_args(self, *args, **kwargs):
        raise Enough

parser = Parser()
try:
    config.config([], parser)
except Enough:
    pass
try:
    version = open("/code/VERSION").read().split()[0]
except OSError:
    version = ""
told = [
    {{
        "flag": action.option_strings[0] if action.option_strings else action.dest,
        "type": getattr(action.type, "__name__", ""),
        "default": action.default if isinstance(action.default, (bool, int, float)) else str(action.default or ""),
        "choices": [str(each) for each in action.choices or []],
        "metavar": str(action.metavar or ""),
        "help": str(action.help or ""),
    }}
    for action in parser._actions
]
print("{_BEGIN}")
print(json.dumps({{"version": version, "options": told}}))
print("{_END}")
'''
"""Run by the engine's own Python: ODM fills a parser of ours, which tells what is in it (contract 9.6)."""


class ImageSilent(Exception):
    """The image did not tell its options."""


class AnswerUnusable(ImageSilent):
    """The image ran, and told something else."""


class OptionsOfImage:
    """Learns the options of the engine's image."""

    def __init__(self, cluster: Cluster, engine: EngineInUse, settings: JobSettings, site: Site) -> None:
        """`engine` is bettered as soon as something is known."""
        self._cluster = cluster
        self._engine = engine
        self._settings = settings
        self._site = site
        mark = hashlib.sha256(settings.engine_image.encode()).hexdigest()[:12]
        self._name = f"scaleodm-options-{mark}"

    async def recall(self) -> str | None:
        """Take what an earlier start has learned; gives the digest of the image that it was learned from."""
        try:
            known = await self._cluster.get("configmaps", self._name)
            self._take(json.loads(known["data"]["options"]))
            return str(known["metadata"]["annotations"][DIGEST])
        except ObjectGone:
            return None
        except (ImageSilent, ValueError, LookupError, TypeError) as unreadable:
            logger.warning("the ConfigMap %s holds no options (%r); the image is asked anew", self._name, unreadable)
            return None

    async def learn(self) -> None:
        """Ask the image, and again where it could not be asked; until it has answered, what is known already serves."""
        failures = answers = 0
        while True:
            try:
                await self._learn()
            except (ClusterFault, ImageSilent) as unknown:
                answers += isinstance(unknown, AnswerUnusable)
                wait = ASK_AGAIN_S[min(failures, len(ASK_AGAIN_S) - 1)] if answers < MOST_ANSWERS else None
                failures += 1
                self._tell(unknown, wait)
                if wait is None:
                    return
                await asyncio.sleep(wait)
            else:
                return

    async def _learn(self) -> None:
        known = await self.recall()
        if known is not None and known in self._settings.engine_image:
            return
        digest, document = await self._ask()
        self._take(document)
        if digest != known:
            await self._keep(digest, document)

    def _tell(self, unknown: Exception, wait_s: float | None) -> None:
        image, offered = self._settings.engine_image, self._engine.now
        then = "it is not asked again before the next start" if wait_s is None else f"it is asked again in {wait_s} s"
        logger.warning(
            "the options of %s are not known (%s); those of %s %s are offered, and %s",
            image,
            unknown,
            offered.name,
            offered.version,
            then,
        )

    def _take(self, document: dict[str, Any]) -> None:
        try:
            options = options_of_parser(document["options"])
        except (ValueError, LookupError, TypeError) as unreadable:
            raise AnswerUnusable(f"it told them in another way: {unreadable!r}") from unreadable
        if not options:
            raise AnswerUnusable("it named none")
        version = str(document.get("version") or self._engine.now.version)[:32]
        self._engine.now = replace(self._engine.now, options=options, version=version)
        logger.info("%s has %d options (version %s)", self._settings.engine_image, len(options), version)

    async def _ask(self) -> tuple[str, dict[str, Any]]:
        try:
            await self._cluster.create("jobs", options_job(self._name, self._settings, self._site))
        except ObjectConflict:
            logger.debug("%s is there already", self._name)
        try:
            async with asyncio.timeout(WITHIN_S):
                pod = await self._ended_pod()
            statuses = pod["status"].get("containerStatuses") or []
            if not statuses:
                raise ImageSilent(f"its pod ended before it ran ({pod['status'].get('reason') or 'no reason given'})")
            digest = statuses[0].get("imageID") or self._settings.engine_image
            log = await self._cluster.whole_log(pod["metadata"]["name"], "options")
        except TimeoutError:
            raise ImageSilent(f"it did not answer within {WITHIN_S} s") from None
        finally:
            await self._cluster.delete("jobs", self._name)
        return str(digest), answer_in(log)

    async def _ended_pod(self) -> Object:
        while True:
            pods, _ = await self._cluster.listing("pods", f"{DOMAIN}/options={self._name}")
            ended = [pod for pod in pods if pod.get("status", {}).get("phase") in ("Succeeded", "Failed")]
            if ended:
                return ended[-1]
            await asyncio.sleep(LOOK_EVERY_S)

    async def _keep(self, digest: str, document: dict[str, Any]) -> None:
        manifest: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self._name,
                "namespace": self._site.namespace,
                "annotations": {IMAGE: self._settings.engine_image, DIGEST: digest},
            },
            "data": {"options": json.dumps(document)},
        }
        await self._cluster.delete("configmaps", self._name)
        await self._cluster.create("configmaps", manifest)


def answer_in(log: str) -> dict[str, Any]:
    """What the image said. Raises `ImageSilent`."""
    _, begin, rest = log.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    if not begin or not end:
        raise AnswerUnusable(f"it said: {log.strip()[-300:] or 'nothing'}")
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError as unreadable:
        raise AnswerUnusable(f"what it said is not JSON: {unreadable}") from unreadable
    return document


def options_job(name: str, settings: JobSettings, site: Site) -> Object:
    """The Job that asks."""
    mark = {"app.kubernetes.io/name": "scaleodm", f"{DOMAIN}/options": name}
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "options",
                "image": settings.engine_image,
                "imagePullPolicy": settings.image_pull_policy,
                "command": ["python3", "-c", ASK],
                "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - a volume of the pod's own
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - a volume of the pod's own
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": each} for each in settings.image_pull_secrets]
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = list(settings.tolerations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": site.namespace,
            "labels": mark | {f"{DOMAIN}/node": label_value(site.node)},
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": WITHIN_S,
            "ttlSecondsAfterFinished": 3600,
            "template": {"metadata": {"labels": mark}, "spec": spec},
        },
    }
