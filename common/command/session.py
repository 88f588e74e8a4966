"""The options that every command has, and what they come to."""

import inspect
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from common.command.api import Api
from common.command.place import Place, find_place
from common.command.shown import Output

P = ParamSpec("P")
R = TypeVar("R")

Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The router, or a node. Else SCALEODM_URL, or a login.")
]
TokenText = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="What opens it. Better: SCALEODM_TOKEN, which `ps` does not show."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Speak to the stack that `scaleodm up` runs in this folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, everything else on stderr.")]


@dataclass(frozen=True, slots=True)
class Given:
    """What the common options say."""

    url: str | None = None
    token: str | None = None
    data: Path | None = None
    as_json: bool = False

    def under(self, outer: object) -> "Given":
        """With what was given to the group that the command belongs to, where the command itself says nothing."""
        if not isinstance(outer, Given):
            return self
        says_where = self.url is not None or self.data is not None
        inherited = self if says_where else replace(self, url=outer.url, data=outer.data)
        return replace(inherited, token=self.token or outer.token, as_json=self.as_json or outer.as_json)


class Session:
    """One command that is being run."""

    def __init__(self, given: Given) -> None:
        """Nothing is asked of anybody yet."""
        self.given = given
        self.output = Output(given.as_json)

    @cached_property
    def place(self) -> Place:
        """Where to."""
        return find_place(self.given.url, self.given.token, self.given.data)

    @cached_property
    def api(self) -> Api:
        """Who answers there."""
        return Api(self.place)

    def close(self) -> None:
        """Give the connections back."""
        for name in ("api", "as_client"):
            if name in self.__dict__:
                self.__dict__[name].close()

    @cached_property
    def as_client(self) -> Api:
        """The same as a client of it, where both tokens are known: what it submits is a client's."""
        place = self.place
        return Api(replace(place, token=place.user_token)) if place.user_token else self.api


def asking(function: Callable[Concatenate[Session, P], R]) -> Callable[..., R]:
    """A command whose first parameter is a `Session`; it gets the common options besides its own."""

    def command(ctx: typer.Context, **values: Any) -> R:  # noqa: ANN401 - whatever the command takes
        common = {name: values.pop(name) for name in ("url", "token", "data", "as_json")}
        given = Given(**common).under(ctx.parent.obj if ctx.parent is not None else None)
        ctx.obj = given
        if ctx.invoked_subcommand is not None:
            return None  # type: ignore[return-value]  # a group whose command comes next
        with closing(Session(given)) as session:
            return function(session, **values)  # type: ignore[call-arg]  # its own parameters, by name

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("url", keyword, default=None, annotation=Url),
        inspect.Parameter("token", keyword, default=None, annotation=TokenText),
        inspect.Parameter("data", keyword, default=None, annotation=Data),
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
    ]
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)
    parameters = [context, *(each.replace(kind=keyword) for each in own), *added]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = function.__doc__
    command.__name__ = getattr(function, "__name__", "command")
    return command
