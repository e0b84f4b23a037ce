"""Every public name says what it is, what it takes (with shapes), and what it raises."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest

import ptycho_bluesky

USUAL = {"self", "cls", "args", "kwargs", "name", "prefix", "parent", "doc"}
"""Of all devices and callbacks."""
ARRAY = re.compile(r"NDArray|\bFrames\b|Image\b|Images\b")
SHAPE = re.compile(r"\(\w[\w .*+/-]*,[^)]*\)|\([A-Z]+\w*,?\)|scalar|shape|arrays? of|H, W|Y, X")
ELSEWHERE = re.compile(r"(?:those of|as for|see) :\w+:`~?([\w.]+)`", re.IGNORECASE)


def modules() -> Iterator[ModuleType]:
    yield ptycho_bluesky
    for module in pkgutil.walk_packages(ptycho_bluesky.__path__, "ptycho_bluesky."):
        if not any(part.startswith("_") for part in module.name.split(".")):
            yield importlib.import_module(module.name)


def members(thing: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(thing).items():
        bare = getattr(member, "__func__", member)  # of a class or static method
        bare = getattr(bare, "fget", getattr(bare, "func", bare))  # of a property, cached or not
        if inspect.isfunction(bare) and not name.startswith("_") and bare.__name__ != "<lambda>":
            yield name, bare


@cache
def names() -> dict[str, Any]:
    """Return every public class, function, method and property, each by the first of its names."""
    found: dict[str, Any] = {}
    for module in modules():
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if thing in found.values() or not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            found[full := f"{module.__name__}.{name}"] = thing
            if inspect.isclass(thing) and thing.__module__.startswith("ptycho_bluesky"):
                found |= {f"{full}.{member}": bare for member, bare in members(thing)}
    return found


def inherited(name: str) -> bool:
    """Tell whether a method only does what its base class promises (e.g. ``trigger`` of ophyd, documents' methods)."""
    owner, method = name.rsplit(".", 1)
    thing = names().get(owner)
    return inspect.isclass(thing) and any(method in vars(base) for base in thing.__mro__[1:])


def is_record(thing: Any) -> bool:
    return inspect.isclass(thing) and (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"))


def own_text(thing: Callable[..., Any]) -> str:
    """Return a docstring; a record's with its fields, whose names often say all, and what it refers to."""
    text = inspect.getdoc(thing) or ""
    if is_record(thing):
        text += "\n" + source(thing).split("\n    def ")[0]
    others = tuple(f".{other}" for other in ELSEWHERE.findall(text))
    told_there = (inspect.getdoc(one) or "" for name, one in names().items() if f".{name}".endswith(others))
    return "\n".join([text, *told_there])


@cache
def source(thing: Any) -> str:
    return textwrap.dedent(inspect.getsource(thing))


def makers(thing: Any) -> list[Any]:
    """Return the functions that have a name's parameters and errors; none where a class has nothing of its own."""
    if not inspect.isclass(thing):
        return [thing]
    if getattr(thing, "_is_protocol", False) or hasattr(thing, "model_fields"):
        return []
    return [vars(thing)[method] for method in ("__init__", "__post_init__") if method in vars(thing)]


def parameters(thing: Any) -> dict[str, str]:
    known = {k: v for maker in makers(thing) for k, v in inspect.signature(maker).parameters.items()}
    return {k: str(v.annotation) for k, v in known.items() if k not in USUAL and k[0] != "_"}


def told(key: str, text: str) -> bool:
    """Tell whether a text names a parameter, by its name or by a word of it: "the step" for ``step_m``."""
    words = [key, *(word.rstrip("s") for word in key.split("_") if len(word) > 2)]
    return any(re.search(rf"\b{word}", text, re.IGNORECASE) for word in words)


def raised(thing: Any) -> set[str]:
    texts = [source(maker) for maker in makers(thing) if maker.__code__.co_filename.endswith(".py")]
    raises = (node.exc for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise))
    calls = {one.func.id for one in raises if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}
    return {name for name in calls if name.endswith("Error")}


def untold_parameters(thing: Any, text: str) -> str:
    known = parameters(thing)
    untold = [key for key in known if not told(key, text)]
    return "" if len(known) == 1 else ", ".join(untold)


def untold_shapes(thing: Any, text: str) -> str:
    types = list(parameters(thing).values())
    if inspect.isfunction(thing):
        types.append(str(inspect.signature(thing).return_annotation))
    return "" if SHAPE.search(text) else ", ".join(filter(ARRAY.search, types))


def untold_errors(thing: Any, text: str) -> str:
    return ", ".join(sorted(error for error in raised(thing) if error not in text))


def itself(thing: Any, text: str) -> str:
    return "" if text else "what it is"


@pytest.mark.xdist_group("docstrings")  # one process imports it all
@pytest.mark.timeout(300)  # imports take seconds, on a busy machine minutes
@pytest.mark.parametrize("untold", [itself, untold_parameters, untold_shapes, untold_errors])
def test_docstrings_tell(untold: Callable[[Any, str], str]) -> None:
    lacking = {
        name: lost
        for name, thing in names().items()
        if not inherited(name) and (lost := untold(thing, own_text(thing)))
    }
    assert not lacking, "\n".join(f"{name} does not tell of: {lost}" for name, lost in lacking.items())
