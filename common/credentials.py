"""Short-lived S3 credentials that reach one task's input and output and nothing else (design 10).

Minted by STS `AssumeRole` with a session policy, in the JSON that AWS's container credentials have.
"""

import json
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from common.references import Reference
from common.settings import S3Settings

LIFETIME_S = 3600
"""Seconds that one set of credentials is good for; whoever holds it asks for the next in good time."""


class MintingFailed(Exception):
    """STS gave no credentials; it may pass."""


def session_policy(source: Reference, output: Reference, also: Sequence[Reference] = ()) -> dict[str, Any]:
    """What a task's pods may do: read its input and `also`; read, write and delete below its output."""
    read = [_arn(each) for each in (source, *also)]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": read},
            {
                "Effect": "Allow",
                "Action": [
                    "s3:GetObject",
                    "s3:PutObject",
                    "s3:DeleteObject",
                    "s3:AbortMultipartUpload",
                    "s3:ListMultipartUploadParts",
                ],
                "Resource": [_arn(output)],
            },
            *(_listing(each) for each in (source, output)),
        ],
    }


def _arn(reference: Reference) -> str:
    return f"arn:aws:s3:::{reference.bucket}/{_literal(reference.key)}" + ("*" if reference.is_prefix else "")


def _listing(reference: Reference) -> dict[str, Any]:
    pattern = _literal(reference.key) + ("*" if reference.is_prefix else "")
    return {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{reference.bucket}"],
        "Condition": {"StringLike": {"s3:prefix": [pattern]}},
    }


def _literal(key: str) -> str:
    """A key as a policy's pattern that matches nothing but itself."""
    return "".join({"*": "${*}", "?": "${?}", "$": "${$}"}.get(letter, letter) for letter in key)


class Minter:
    """Asks STS for credentials with the node's own."""

    def __init__(self, settings: S3Settings) -> None:
        """Nothing is asked of STS before the first call."""
        assert settings.sts_role_arn is not None
        self._role = settings.sts_role_arn
        secret, session = settings.secret_access_key, settings.session_token
        self._client = boto3.session.Session().client(
            "sts",
            endpoint_url=settings.sts_endpoint or settings.endpoint,
            region_name=settings.region,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            aws_session_token=session.get_secret_value() if session else None,
            config=Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 3}),
        )

    def mint(self, name: str, source: Reference, output: Reference, also: Sequence[Reference] = ()) -> dict[str, str]:
        """Credentials for one task. `name` stands in the cloud's own audit log. Raises `MintingFailed`."""
        try:
            answer = self._client.assume_role(
                RoleArn=self._role,
                RoleSessionName=name[:64],
                DurationSeconds=LIFETIME_S,
                Policy=json.dumps(session_policy(source, output, also), separators=(",", ":")),
            )
        except ClientError as refused:
            code = refused.response.get("Error", {}).get("Code", "unknown")
            raise MintingFailed(f"STS did not let this node assume {self._role} ({code}).") from refused
        except BotoCoreError as broken:
            raise MintingFailed(f"STS does not answer ({type(broken).__name__}).") from broken
        minted = answer["Credentials"]
        return {
            "AccessKeyId": minted["AccessKeyId"],
            "SecretAccessKey": minted["SecretAccessKey"],
            "Token": minted["SessionToken"],
            "Expiration": minted["Expiration"].isoformat(),
        }
