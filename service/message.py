"""Converts Desk's `MsgBody` to a desk.v1.Message. Never raises on data: misfits are left out."""

from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from msgspec import UnsetType

from desk.v1 import event_pb2 as pb

MAX_ELEMENTS = 100
"""Parts of a message that are read; further parts are only in the raw body."""

_INT32, _INT64 = 2**31, 2**63
_MAX_SECONDS = 315_576_000_000  # what protobuf's Duration can hold


def fill(message: pb.Message, key: str, body: list[Any] | UnsetType | None) -> None:
    """Fill in a message. `body` is `MsgBody` as parsed from JSON."""
    message.key = key
    for each in (body or [])[:MAX_ELEMENTS]:
        element = message.elements.add()
        if type(each) is dict:
            _fill(element, _text(each, "MsgType"), each.get("MsgContent"))
        else:
            element.json = _json(each)


def _fill(element: pb.MessageElement, kind: str, content: Any) -> None:
    element.type = kind
    if type(content) is not dict:
        element.json = _json(content)
    elif kind == "TIMTextElem":  # nearly all of them: not by `_text`
        text = content.get("Text")
        element.text = text if type(text) is str else ""
    elif kind == "TIMImageElem":
        element.media.MergeFrom(_image(content))
    elif kind in _PARTS:
        name, names = _PARTS[kind]
        part = getattr(element, name)
        types = {field.name: field.type for field in part.DESCRIPTOR.fields}
        part.SetInParent()
        part.MergeFrom(
            type(part)(**{to: _READERS[types[to]](content, of) for to, of in names.items()})
        )
    else:
        element.json = _json(content)


def _image(content: dict[str, Any]) -> pb.MediaElement:
    listed = content.get("ImageInfoArray")
    versions = [each for each in listed if type(each) is dict] if type(listed) is list else []
    versions.sort(key=lambda each: _int(each, "Size"))
    largest: dict[str, Any] = versions[-1] if versions else {}
    image_format = content.get("ImageFormat")
    return pb.MediaElement(
        url=_text(largest, "URL"),
        uuid=_text(content, "UUID"),
        size=_int(largest, "Size"),
        format=str(image_format) if type(image_format) in (int, str) else "",
        width=_int(largest, "Width", _INT32),
        height=_int(largest, "Height", _INT32),
        thumbnail_url=_text(versions[0], "URL") if len(versions) > 1 else "",
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _text(content: dict[str, Any], field: str) -> str:
    value = content.get(field)
    return value if type(value) is str else ""


def _int(content: dict[str, Any], field: str, limit: int = _INT64) -> int:
    value = content.get(field)
    return value if type(value) is int and -limit <= value < limit else 0


def _degrees(content: dict[str, Any], field: str) -> float:
    value: Any = content.get(field)
    return float(value) if type(value) in (int, float) and -360 <= value <= 360 else 0.0


def _seconds(content: dict[str, Any], field: str) -> Duration | None:
    value: Any = content.get(field)
    if type(value) not in (int, float) or not 0 < value < _MAX_SECONDS:
        return None
    return Duration(seconds=int(value), nanos=int(value % 1 * 1_000) * 1_000_000)


_READERS: dict[int, Callable[[dict[str, Any], str], Any]] = {
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_INT64: _int,
    FieldDescriptor.TYPE_DOUBLE: _degrees,
    FieldDescriptor.TYPE_MESSAGE: _seconds,
}
"""By the type of a field in desk.v1."""

_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "TIMLocationElem": (
        "location",
        {"description": "Desc", "latitude": "Latitude", "longitude": "Longitude"},
    ),
    "TIMFaceElem": ("face", {"index": "Index", "data": "Data"}),
    "TIMCustomElem": (
        "custom",
        {"data": "Data", "description": "Desc", "extension": "Ext", "sound": "Sound"},
    ),
    "TIMSoundElem": ("media", {"url": "Url", "uuid": "UUID", "size": "Size", "duration": "Second"}),
    "TIMFileElem": (
        "media",
        {"url": "Url", "uuid": "UUID", "size": "FileSize", "file_name": "FileName"},
    ),
    "TIMVideoFileElem": (
        "media",
        {
            "url": "VideoUrl",
            "uuid": "VideoUUID",
            "size": "VideoSize",
            "duration": "VideoSecond",
            "format": "VideoFormat",
            "thumbnail_url": "ThumbUrl",
        },
    ),
}
"""By `MsgType`: the part of a MessageElement, and Desk's name for each of its fields."""
