"""What the NodeODM API shows a person: a front page, a page for wrong paths, and its own description. Pure."""

import html
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#223}"
    "pre{background:#f2f4f7;padding:1rem;overflow:auto;border-radius:.4rem}h1{font-size:1.6rem}"
)


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def not_found_page(method: str, path: str) -> str:
    """The page for a path that is not there (contract 1.1)."""
    return _page("Error", f"<pre>{html.escape(f'Cannot {method} {path}')}</pre>")


def front_page(address: str) -> str:
    """What stands here, and how to use it."""
    host, _, port = html.escape(address).partition(":")
    example = f"from pyodm import Node\n\nnode = Node('{host}', {port or 80}, token='…')\nprint(node.info())"
    return _page(
        "ScaleODM",
        "<h1>ScaleODM</h1><p>This address speaks the NodeODM API: point PyODM, WebODM or any other client of NodeODM "
        f"at it, with the token that you were given.</p><pre>{example}</pre>"
        '<p>The API is described in <a href="swagger.json">swagger.json</a> and '
        '<a href="openapi.json">openapi.json</a>.</p>',
    )


_TOKEN = {"name": "token", "in": "query", "type": "string", "description": "Authentication token"}
_UUID = {"name": "uuid", "in": "path", "type": "string", "required": True, "description": "UUID of the task"}
_NAMED = {"name": "uuid", "in": "formData", "type": "string", "required": True, "description": "UUID of the task"}
_OPTIONS = {"name": "options", "in": "formData", "type": "string", "description": "JSON list of name and value"}
_FIELDS = [
    {"name": "set-uuid", "in": "header", "type": "string", "description": "UUID that the task shall have"},
    {"name": "name", "in": "formData", "type": "string", "description": "Name of the task"},
    _OPTIONS,
    {"name": "skipPostProcessing", "in": "formData", "type": "boolean", "description": "Leave out post-processing"},
    {"name": "webhook", "in": "formData", "type": "string", "description": "URL to call when the task has ended"},
    {"name": "outputs", "in": "formData", "type": "string", "description": "JSON list of paths to put into all.zip"},
    {"name": "dateCreated", "in": "formData", "type": "integer", "description": "Creation time in milliseconds"},
    {"name": "zipurl", "in": "formData", "type": "string", "description": "s3:// reference of a folder or a zip file"},
    {"name": "readS3Path", "in": "formData", "type": "string", "description": "s3:// folder of the images"},
    {"name": "writeS3Path", "in": "formData", "type": "string", "description": "s3:// folder for the products"},
]
_IMAGES = {"name": "images", "in": "formData", "type": "file", "description": "Images and files that go with them"}
_PATHS: tuple[tuple[str, str, str, list[dict[str, Any]]], ...] = (
    ("get", "/info", "What this node is and has", []),
    ("get", "/options", "The options of a task", []),
    ("get", "/task/list", "Every task", []),
    (
        "get",
        "/task/{uuid}/info",
        "How a task stands",
        [_UUID, {"name": "with_output", "in": "query", "type": "integer"}],
    ),
    (
        "get",
        "/task/{uuid}/output",
        "The console of a task",
        [_UUID, {"name": "line", "in": "query", "type": "integer"}],
    ),
    (
        "get",
        "/task/{uuid}/download/{asset}",
        "The products of a task",
        [_UUID, {"name": "asset", "in": "path", "type": "string", "required": True, "enum": ["all.zip"]}],
    ),
    ("post", "/task/new", "A new task, in one request", [*_FIELDS, _IMAGES]),
    ("post", "/task/new/init", "Open an upload", _FIELDS),
    ("post", "/task/new/upload/{uuid}", "Add files to an upload", [_UUID, {**_IMAGES, "required": True}]),
    ("post", "/task/new/commit/{uuid}", "Make a task of an upload", [_UUID]),
    ("post", "/task/cancel", "End a task", [_NAMED]),
    ("post", "/task/remove", "End a task and forget it", [_NAMED]),
    ("post", "/task/restart", "Run a task once more", [_NAMED, _OPTIONS]),
    ("get", "/auth/info", "Whether there is a login", []),
    ("post", "/auth/login", "Not available", []),
    ("post", "/auth/register", "Not available", []),
)


def swagger(version: str) -> dict[str, Any]:
    """The API as Swagger 2.0 (contract 2.2)."""
    paths = {path: {method: _operation(text, parameters)} for method, path, text, parameters in _PATHS}
    text = {"type": "string"}
    return {
        "swagger": "2.0",
        "info": {"title": "ScaleODM", "version": version, "description": "The NodeODM API of many nodes."},
        "basePath": "/",
        "schemes": ["http"],
        "consumes": ["application/json"],
        "produces": ["application/json", "application/zip"],
        "paths": paths,
        "definitions": {
            "Error": {"type": "object", "required": ["error"], "properties": {"error": text}},
            "Response": {
                "type": "object",
                "required": ["success"],
                "properties": {"success": {"type": "boolean"}, "error": text},
            },
        },
    }


def _operation(text: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": text,
        "parameters": [*parameters, _TOKEN],
        "responses": {"200": {"description": text}, "default": {"description": "Error"}},
    }
