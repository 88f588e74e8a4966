"""Every problem with the settings is told at once, by the variable's name."""

import pytest

from common.settings import S3Settings, SettingsUnusable, read_settings
from node.settings import NodeSettings
from router.settings import RouterSettings


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no secret value is shown."""
    monkeypatch.setenv("SCALEODM_ROUTER_DATABASE_URL", "mysql://user:pass-word@h/d")
    monkeypatch.setenv("SCALEODM_ROUTER_SECRET_KEY", "short-secret")
    monkeypatch.setenv("SCALEODM_ROUTER_PORT", "70000")
    with pytest.raises(SettingsUnusable) as told:
        read_settings(RouterSettings)
    text = str(told.value)
    for expected in (
        "SCALEODM_ROUTER_DATABASE_URL: Value error, expected postgresql://",
        "SCALEODM_ROUTER_SECRET_KEY: Value error, expected at least 32 characters",
        "SCALEODM_ROUTER_PORT: Input should be less than or equal to 65535",
    ):
        assert expected in text
    assert "pass-word" not in text
    assert "short-secret" not in text


def test_staging_is_required() -> None:
    """By its own name."""
    with pytest.raises(SettingsUnusable, match="SCALEODM_STAGING: Field required"):
        read_settings(S3Settings)


def test_a_program_that_nobody_could_use_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authentication is switched off on purpose or not at all."""
    with pytest.raises(SettingsUnusable, match="SCALEODM_NODE_AUTH=off"):
        read_settings(NodeSettings)
    monkeypatch.setenv("SCALEODM_NODE_AUTH", "off")
    assert read_settings(NodeSettings).slots == 1
    monkeypatch.setenv("SCALEODM_NODE_ROUTER_URL", "http://router:3000")
    with pytest.raises(SettingsUnusable, match="SCALEODM_NODE_JOIN_TOKEN"):
        read_settings(NodeSettings)
