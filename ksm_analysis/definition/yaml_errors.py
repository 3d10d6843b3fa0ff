"""Errors of a YAML file, each with the file, the line and the key."""

import difflib
import typing
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from ksm_analysis.definition.values import keys
from ksm_analysis.errors import InputError


def read(text: str, file: str) -> tuple[Any, yaml.Node | None]:
    """Read YAML into data, and into nodes that know their lines. Raises InputError."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        return (loader.construct_document(root) if root else None), root
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(_not_yaml(error, file)) from None


def _not_yaml(error: Exception, file: str) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"{mark.line + 1}" if mark else "1"
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{file}:{line}: not valid YAML: {what}"


def repeated_keys(root: yaml.Node) -> typing.Iterator[tuple[int, str]]:
    """Find repeated keys, as (line, text).

    YAML silently uses the last of two equal keys, which may not be the one that was meant.
    """
    seen, nodes = set(), [root]
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        names = set()
        for key, value in node.value:
            if key.value in names if isinstance(key.value, str) else False:
                yield key.start_mark.line + 1, f"{key.value}: this key is repeated"
            names.add(str(key.value))
            nodes.append(value)


def problem(details: ErrorDetails, root: yaml.Node, model: type[BaseModel]) -> tuple[int, str]:
    """Return one of pydantic's errors as (line, text). `model` is that of the whole file."""
    location = details["loc"]
    line, path, missing = _place(location, root)
    # a missing key has no line, but its name helps
    if missing and (details["type"] == "missing" or not path):
        path = ".".join([*filter(None, [path]), str(missing)])
    return line, f"{path}: {_message(details, model)}"


def _message(details: ErrorDetails, model: type[BaseModel]) -> str:
    location, kind = details["loc"], details["type"]
    match kind:
        case "extra_forbidden" | "invalid_key":
            return _unknown_key(location, model)
        case "model_type":
            return f"must be a mapping with the keys {', '.join(keys(_model_at(location, model)))}"
    plain = {
        "missing": "this key is required",
        "dict_type": "must be a mapping of names to values",
        "too_short": "must have at least one entry",
        "list_type": "must be a list",
    }
    return plain.get(kind, details["msg"])


def _place(location: tuple[int | str, ...], root: yaml.Node) -> tuple[int, str, str | None]:
    """Return line and dotted path of the deepest node that pydantic's location leads to.

    Names that no file contains (pydantic's names for the branches of a union) are skipped. The
    third value is the last name if the file does not have this key.
    """
    node, line, path, missing = root, root.start_mark.line + 1, "", None
    for part in location:
        missing = part if isinstance(part, str) else None
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, path = node.start_mark.line + 1, f"{path}[]"
        elif isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
            if found:
                key, node = found[-1]
                line, path, missing = key.start_mark.line + 1, f"{path}.{part}".lstrip("."), None
    return line, path, missing


def _unknown_key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    allowed = keys(_model_at(location[:-1], model))
    near = difflib.get_close_matches(str(location[-1]), allowed, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown key.{hint} Allowed: {', '.join(allowed)}"


def _model_at(location: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Find the model that pydantic's location leads to."""
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field and (inner := model_in(field.annotation)):
            model = inner
    return model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Find the model in a type such as `list[Model]` or `Model | str`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, typing.get_args(annotation))), None)
