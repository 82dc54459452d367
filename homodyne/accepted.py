"""What a setting accepts, in the user's words: read from the fields of an Option, so that no message can be out of date."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    NoneType: "null",
    Any: "anything",
}


@dataclass(frozen=True)
class Setting:
    """One setting of an option.

    Attributes:
        path: keys from the option to the setting.
        accepted: type, range or list of values; empty when the setting does not exist.
        siblings: names that exist beside it.
    """

    path: tuple[str, ...]
    accepted: str
    siblings: tuple[str, ...]


def describe(cls: type[BaseModel], location: Iterable[int | str]) -> Setting:
    """The setting that a pydantic error points at. Parts that name no key (a member of a union) end the walk."""
    path: list[str] = []
    siblings: tuple[str, ...] = ()
    annotation: Any = cls
    accepted = in_words(cls)
    for part in location:
        model, item = _containers(annotation)
        if model is not None:
            siblings = tuple(model.model_fields)
            path.append(str(part))
            if part not in model.model_fields:
                return Setting(tuple(path), "", siblings)
            field = model.model_fields[str(part)]
            annotation = Annotated[field.annotation, field]
        elif item is not None and (isinstance(part, int) or get_origin(_bare(annotation)) in (dict, Mapping)):
            path.append(str(part))
            annotation = item
        else:
            break
        accepted = in_words(annotation)
    return Setting(tuple(path), accepted, siblings)


def in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """An annotation as a phrase: ``Annotated[int, Field(ge=1)] | None`` is "integer >= 1 or null"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], (*metadata, *arguments[1:]))
    limits = _limits(metadata)
    if origin in (Union, UnionType):
        return " or ".join(in_words(member, () if member is NoneType else metadata) for member in arguments)
    if origin is Literal:
        return ", ".join("null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) for value in arguments)
    if origin in (list, tuple, set, frozenset):
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"list [{', '.join(in_words(member) for member in arguments)}]"
        item = in_words(arguments[0]) if arguments else "anything"
        return f"list [{', '.join([item] * int(limits))}]" if limits.isdigit() else f"list of {item}{limits}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"the keys {', '.join(annotation.model_fields)}" if annotation.model_fields else "no keys"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(str(member.value) for member in annotation)
    if annotation in WORDS:
        return WORDS[annotation] + limits
    if origin is dict or annotation is dict:
        return "a block of keys"
    return getattr(annotation, "__name__", str(annotation)) + limits


def _limits(metadata: Iterable[Any]) -> str:
    """Range and length as a clause; of a fixed length, the length alone."""
    text = ""
    lengths: list[int | None] = [None, None]
    for item in _flat(metadata):
        match item:
            case at.Ge(ge=limit):
                text += f" >= {limit}"
            case at.Gt(gt=limit):
                text += f" > {limit}"
            case at.Le(le=limit):
                text += f"{' and' if text else ''} <= {limit}"
            case at.Lt(lt=limit):
                text += f"{' and' if text else ''} < {limit}"
            case at.MinLen(min_length=length):
                lengths[0] = length
            case at.MaxLen(max_length=length):
                lengths[1] = length
            case _:
                pass
    low, high = lengths
    if low is not None and low == high:
        return str(low)
    return text + (f", at least {low}" if low is not None else "") + (f", at most {high}" if high is not None else "")


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _bare(annotation: Any) -> Any:
    """Without Annotated and without ``| None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            return _bare(members[0])
    return annotation


def _containers(annotation: Any) -> tuple[type[BaseModel] | None, Any]:
    """The settings block that an annotation is, or what it is a list or mapping of."""
    bare = _bare(annotation)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return bare, None
    arguments = get_args(bare)
    if get_origin(bare) in (dict, Mapping):
        return None, arguments[1]
    if get_origin(bare) in (list, tuple):
        return None, arguments[0]
    return None, None
