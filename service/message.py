"""Desk's `MsgBody` as a desk.v1.Message. Never raises on data: what does not fit is left out."""

from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration

from desk.v1 import event_pb2 as pb

MAX_ELEMENTS = 100
"""Parts of a message that are read; the others are only in the raw body."""

_INT32, _INT64 = 2**31, 2**63
_MAX_SECONDS = 315_576_000_000  # what protobuf's Duration can hold


def fill(message: pb.Message, key: str, body: list[Any] | None) -> None:
    """Fill in a message. `body` is `MsgBody` as parsed from JSON."""
    message.key = key
    message.SetInParent()
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
    elif kind == "TIMTextElem":  # nearly all of them
        element.text = _text(content, "Text")
    elif kind in _READERS:
        element.MergeFrom(_READERS[kind](content))
    else:
        element.json = _json(content)


def _location(content: dict[str, Any]) -> pb.MessageElement:
    location = pb.LocationElement(
        description=_text(content, "Desc"),
        latitude=_degrees(content, "Latitude"),
        longitude=_degrees(content, "Longitude"),
    )
    return pb.MessageElement(location=location)


def _face(content: dict[str, Any]) -> pb.MessageElement:
    face = pb.FaceElement(index=_int(content, "Index"), data=_text(content, "Data"))
    return pb.MessageElement(face=face)


def _custom(content: dict[str, Any]) -> pb.MessageElement:
    custom = pb.CustomElement(
        data=_text(content, "Data"),
        description=_text(content, "Desc"),
        extension=_text(content, "Ext"),
        sound=_text(content, "Sound"),
    )
    return pb.MessageElement(custom=custom)


def _sound(content: dict[str, Any]) -> pb.MessageElement:
    media = pb.MediaElement(
        url=_text(content, "Url"),
        uuid=_text(content, "UUID"),
        size=_int(content, "Size"),
        duration=_seconds(content, "Second"),
    )
    return pb.MessageElement(media=media)


def _file(content: dict[str, Any]) -> pb.MessageElement:
    media = pb.MediaElement(
        url=_text(content, "Url"),
        uuid=_text(content, "UUID"),
        size=_int(content, "FileSize"),
        file_name=_text(content, "FileName"),
    )
    return pb.MessageElement(media=media)


def _video(content: dict[str, Any]) -> pb.MessageElement:
    media = pb.MediaElement(
        url=_text(content, "VideoUrl"),
        uuid=_text(content, "VideoUUID"),
        size=_int(content, "VideoSize"),
        duration=_seconds(content, "VideoSecond"),
        format=_text(content, "VideoFormat"),
        thumbnail_url=_text(content, "ThumbUrl"),
    )
    return pb.MessageElement(media=media)


def _image(content: dict[str, Any]) -> pb.MessageElement:
    listed = content.get("ImageInfoArray")
    versions = [each for each in listed if type(each) is dict] if type(listed) is list else []
    versions.sort(key=lambda each: _int(each, "Size"))
    largest: dict[str, Any] = versions[-1] if versions else {}
    image_format = content.get("ImageFormat")
    media = pb.MediaElement(
        url=_text(largest, "URL"),
        uuid=_text(content, "UUID"),
        size=_int(largest, "Size"),
        format=str(image_format) if type(image_format) in (int, str) else "",
        width=_int(largest, "Width", _INT32),
        height=_int(largest, "Height", _INT32),
        thumbnail_url=_text(versions[0], "URL") if len(versions) > 1 else "",
    )
    return pb.MessageElement(media=media)


_READERS: dict[str, Callable[[dict[str, Any]], pb.MessageElement]] = {
    "TIMLocationElem": _location,
    "TIMFaceElem": _face,
    "TIMCustomElem": _custom,
    "TIMSoundElem": _sound,
    "TIMImageElem": _image,
    "TIMFileElem": _file,
    "TIMVideoFileElem": _video,
}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _text(content: dict[str, Any], field: str) -> str:
    value = content.get(field)
    return value if type(value) is str else ""


def _int(content: dict[str, Any], field: str, limit: int = _INT64) -> int:
    value = content.get(field)
    return value if type(value) is int and -limit <= value < limit else 0


def _degrees(content: dict[str, Any], field: str) -> float:
    value = content.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool) and -360 <= value <= 360:
        return float(value)
    return 0.0


def _seconds(content: dict[str, Any], field: str) -> Duration | None:
    value = content.get(field)
    if not isinstance(value, int | float) or not 0 < value < _MAX_SECONDS:
        return None
    return Duration(seconds=int(value), nanos=int(value % 1 * 1_000) * 1_000_000)
