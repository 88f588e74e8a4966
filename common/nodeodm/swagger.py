"""The API as Swagger 2.0, which NodeODM's clients can read (contract 2.2): `/openapi.json` told once more. Pure.

Only what our own document uses is translated. What Swagger 2.0 cannot say (one of several kinds, null) becomes the
first kind, or any; the error that every route may answer becomes `default`, as NodeODM's own document has it.
"""

from collections.abc import Mapping
from typing import Any

TAG = "NodeODM"
"""What the routes carry that are told of."""
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
_ERROR = {"$ref": "#/definitions/Error"}
_KEPT = ("type", "format", "description", "enum", "required", "pattern", "minimum", "maximum", "maxLength", "minLength")
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_JSON = "application/json"


def swagger(openapi: Mapping[str, Any], version: str) -> dict[str, Any]:
    """`openapi`: the document of version 3; `version`: of the API that is told of."""
    paths = {path: _path(operations) for path, operations in openapi["paths"].items()}
    paths = {path: operations for path, operations in paths.items() if operations}
    schemas = openapi.get("components", {}).get("schemas", {})
    definitions: dict[str, Any] = {}
    waiting = _references(paths) | {"Error", "Response"}
    while waiting:
        name = waiting.pop()
        definitions[name] = _schema(schemas[name])
        waiting |= _references(definitions[name]) - definitions.keys()
    return {
        "swagger": "2.0",
        "info": {"title": "ScaleODM", "version": version, "description": "The NodeODM API of many nodes."},
        "basePath": "/",
        "schemes": ["http"],
        "consumes": [_JSON],
        "produces": [_JSON, "application/zip"],
        "paths": paths,
        "definitions": dict(sorted(definitions.items())),
    }


def _path(operations: Mapping[str, Any]) -> dict[str, Any]:
    return {
        method: _operation(operation)
        for method, operation in operations.items()
        if method in _METHODS and TAG in operation.get("tags", ())
    }


def _operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation["summary"], "operationId": operation["operationId"]}
    content = operation.get("requestBody", {}).get("content", {})
    parameters = [_parameter(each) for each in operation.get("parameters", ())]
    forms = [kind for kind in _FORMS if kind in content]
    if forms:
        # A body of Swagger 2.0 is either a form or JSON.
        told["consumes"] = forms
        parameters += _fields(content[forms[0]]["schema"])
    elif _JSON in content:
        parameters.append({"name": "body", "in": "body", "schema": _schema(content[_JSON]["schema"])})
    answers = {status: _answer(answer) for status, answer in operation["responses"].items()}
    return told | {
        "parameters": parameters,
        "responses": answers | {"default": {"description": "Error", "schema": _ERROR}},
    }


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: parameter[key] for key in ("name", "in", "description") if key in parameter}
    told["required"] = bool(parameter.get("required", False))
    return _schema(parameter.get("schema", {})) | told


def _fields(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    found = []
    for name, field in schema.get("properties", {}).items():
        is_file = field.get("items", field).get("format") == "binary"
        text = field.get("description", "")
        kind = {"type": "file", "description": text} if is_file else _schema(field)
        found.append({"name": name, "in": "formData", "required": name in required} | kind)
    return found


def _answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": answer["description"]}
    schema = answer.get("content", {}).get(_JSON, {}).get("schema")
    if schema:
        told["schema"] = _schema(schema)
    return told


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of OpenAPI 3.1 as Swagger 2.0 can say it."""
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/components/schemas/", "#/definitions/")}
    if "anyOf" in schema:
        return _first_of(schema)
    told = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        told["enum"] = [schema["const"]]
    if "properties" in schema:
        told["properties"] = {name: _schema(each) for name, each in schema["properties"].items()}
    if schema.get("type") == "array":
        told["items"] = _schema(schema.get("items", {}))
    if schema.get("additionalProperties") is False:
        told["additionalProperties"] = False
    return told


def _first_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [each for each in schema["anyOf"] if each.get("type") != "null"]
    others = [each for each in kinds if each.get("$ref") != "#/components/schemas/Error"]
    only = (others or kinds)[0]
    text = {"description": schema["description"]} if "description" in schema else {}
    # A value of several kinds cannot be said; that there may be any can.
    found = _schema(only) if len(others) <= 1 else {}
    if "$ref" in found:
        return found
    return found | text | ({"x-nullable": True} if len(kinds) < len(schema["anyOf"]) else {})


def _references(told: object) -> set[str]:
    if isinstance(told, dict):
        found = {told["$ref"].rpartition("/")[2]} if isinstance(told.get("$ref"), str) else set()
        return found.union(*(_references(each) for each in told.values()))
    if isinstance(told, list):
        return set().union(*(_references(each) for each in told))
    return set()
