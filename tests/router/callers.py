"""Whoever changes something in a test."""

from common.tokens import Caller, Kind

ADMIN = Caller(Kind.ADMIN, "ops", "default")
USER = Caller(Kind.USER, "alice", "acme")
