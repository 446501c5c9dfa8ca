"""Fault injection: which requests fail, how, and how often."""

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput

KINDS = "status, delay, cut or flip"


@dataclass
class Fault:
    """One rule. It needs at least one of `status`, `delay`, `cut` and `flip`, which combine.

    Attributes:
        route: the name of a route (`routes.ROUTES`: "commit", "put", "resolve", ...) or a pattern ("*", "xet-*").
        method: only this HTTP method; "" is any.
        path: only request paths matching this pattern ("*/model.safetensors").
        times: how many matching requests it strikes; 0 is for ever.
        skip: how many matching requests pass unharmed before the first strike.
        status: answer this HTTP status; the request itself is not carried out.
        retry_after: seconds in a `Retry-After` header beside `status`.
        headers: further headers beside `status` (``{"ratelimit": '"api";r=0;t=3'}``).
        message: what the error answer says.
        delay: seconds to wait before the request is carried out.
        cut: close the connection at this place of the body: an integer counts bytes, a float is a fraction of the
            whole (1.0 of a request: after its last byte, and nothing is carried out; 0 of a response: carried out,
            but never answered).
        flip: flip one bit at this place of the body, counted like `cut`.
        side: the body that `cut` and `flip` mean: "request" or "response"; "" is the response of GET and HEAD and the
            request of everything else.
    """

    route: str = "*"
    method: str = ""
    path: str = "*"
    times: int = 1
    skip: int = 0
    status: int | None = None
    retry_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "fault on order"
    delay: float = 0
    cut: int | float | None = None
    flip: int | float | None = None
    side: str = ""

    def __post_init__(self):
        for name, allowed in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise BadInput(f"{value!r} is no {_said(allowed)}", remedy="correct the fault rule", field=name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise BadInput(f"{value!r} is out of range", remedy="give zero or a positive number", field=name)
        if self.status is not None and not 400 <= self.status <= 599:
            raise BadInput(f"{self.status} is not an error status", remedy="give 400 to 599", field="status")
        if self.side not in ("", "request", "response"):
            raise BadInput(f"{self.side!r} is not a side", remedy="give request or response", field="side")
        if self.status is None and self.cut is None and self.flip is None and not self.delay:
            raise BadInput("the fault rule does nothing", remedy=f"give it a {KINDS}", field="status")

    def matches(self, route: str, method: str, path: str) -> bool:
        named = fnmatchcase(route, self.route) and fnmatchcase(path, self.path)
        return named and self.method.upper() in ("", method)

    def place(self, kind: str, side: str, method: str, length: int) -> int | None:
        """Return the byte of a `length`-byte body at which this rule cuts or flips (`kind`) on `side`, or None."""
        where = getattr(self, kind)
        mine = self.side or ("response" if method in ("GET", "HEAD") else "request")
        if where is None or side != mine:
            return None
        at = int(where * length) if isinstance(where, float) else where
        return min(at, length - 1) if kind == "flip" and length else at

    def summary(self) -> dict:
        """Return the rule as the request log shows it: its fields that are not the default."""
        return {key: value for key, value in asdict(self).items() if value != _DEFAULTS[key]}


_TYPES = {
    **dict.fromkeys(("route", "method", "path", "message", "side"), str),
    **dict.fromkeys(("times", "skip"), int),
    **dict.fromkeys(("status", "retry_after"), int | None),
    **dict.fromkeys(("cut", "flip"), int | float | None),
    "delay": int | float,
    "headers": dict,
}
_DEFAULTS = {f.name: {} if f.name == "headers" else f.default for f in fields(Fault)}


def _said(allowed) -> str:
    return str(getattr(allowed, "__name__", allowed)).replace(" | ", " or ").replace(" or None", "")


class Faults:
    """The rules in force, in order; each request meets the first one that matches and is not used up."""

    def __init__(self, rules: Iterable[Fault] = ()):
        self._rules = [[rule, 0] for rule in rules]
        self._lock = threading.Lock()

    def add(self, rule: Fault) -> None:
        with self._lock:
            self._rules.append([rule, 0])

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def take(self, route: str, method: str, path: str) -> Fault | None:
        """Return the rule that strikes this request, counting the strike, or None."""
        with self._lock:
            for entry in self._rules:
                rule, count = entry
                if not rule.matches(route, method, path) or (rule.times and count >= rule.skip + rule.times):
                    continue
                entry[1] += 1
                if count >= rule.skip:
                    return rule
        return None


def read_rules(path: str | Path) -> list[Fault]:
    """Read a JSON list of fault rules.

    Raises:
        BadInput: the file cannot be read, is no list of objects, or a rule has an unknown or impossible field.
    """
    try:
        rules = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(str(error.strerror), remedy="name a readable JSON file of fault rules", file=path) from error
    except ValueError as error:
        raise BadInput(f"not JSON ({error})", remedy="give a JSON list of fault rules", file=path) from error
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise BadInput(
            "not a list of objects", remedy='give a list such as [{"route": "put", "status": 503}]', file=path
        )
    return [_rule(rule, index, path) for index, rule in enumerate(rules)]


def _rule(fields_given: dict, index: int, path: str | Path) -> Fault:
    for name in fields_given:
        if name not in _DEFAULTS:
            remedy = f"use only {', '.join(_DEFAULTS)}"
            raise BadInput("no such field in a fault rule", remedy=remedy, file=path, record=index, field=name)
    try:
        return Fault(**fields_given)
    except BadInput as error:
        raise BadInput(error.problem, remedy=error.remedy, file=path, record=index, field=error.field) from error
