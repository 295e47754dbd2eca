"""Values as JSON that every browser reads, written by the application's renderer."""

from __future__ import annotations

import json
from copy import copy
from functools import cache
from typing import Any

from pyramid.interfaces import IRendererFactory
from pyramid.renderers import JSON, RendererHelper

from stargate.message.jsontext import checked


class Writer:
    """Writes with the JSON renderer of one application, with no request."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        #: A renderer, and where it is Pyramid's own the same that refuses NaN.
        self._seen: tuple[Any, Any] = (None, None)

    def write(self, registry: Any, value: Any) -> str:
        """``value`` as text; a ``ValueError`` for what is no JSON."""
        factory = registry and registry.queryUtility(IRendererFactory, name="json") or _plain()
        info, system = RendererHelper(name="json", registry=registry), {"request": None}
        seen, strict = self._seen
        if factory is not seen:
            strict = _strict(factory)
            self._seen = factory, strict
        if strict is not None:
            try:
                text: str = strict(info)(value, system)
                return text
            except ValueError:
                pass  # It may be a key that is NaN alone, and a key is a text.
        return checked(factory(info)(value, system))


@cache
def _plain() -> JSON:
    return JSON()


def _strict(factory: Any) -> Any:
    """``factory`` with a serializer that refuses: to look through its text would cost a tenth."""
    if type(factory) is not JSON or factory.serializer is not json.dumps:
        return None
    strict = copy(factory)  # The adapters are the same, those that are added later as well.
    strict.kw = {**factory.kw, "allow_nan": False}
    return strict
