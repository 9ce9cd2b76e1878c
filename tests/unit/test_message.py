"""`MsgBody` as desk.v1 shows it: every kind that Desk documents, and any other JSON."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from desk.v1 import event_pb2 as pb
from service.message import MAX_ELEMENTS, fill


def read(key: str, body: list[Any]) -> pb.Message:
    """Return the message as a client reads it."""
    message = pb.Message()
    fill(message, key, body)
    return pb.Message.FromString(message.SerializeToString())


def element(kind: str, content: Any) -> pb.MessageElement:
    return read("", [{"MsgType": kind, "MsgContent": content}]).elements[0]


KINDS: list[tuple[str, dict[str, Any], pb.MessageElement]] = [
    ("TIMTextElem", {"Text": "你好"}, pb.MessageElement(text="你好")),
    (
        "TIMLocationElem",
        {"Desc": "here", "Latitude": -6.2, "Longitude": 106},
        pb.MessageElement(
            location=pb.LocationElement(description="here", latitude=-6.2, longitude=106)
        ),
    ),
    (
        "TIMFaceElem",
        {"Index": 3, "Data": "d"},
        pb.MessageElement(face=pb.FaceElement(index=3, data="d")),
    ),
    (
        "TIMCustomElem",
        {"Data": "a", "Desc": "b", "Ext": "c", "Sound": "d"},
        pb.MessageElement(
            custom=pb.CustomElement(data="a", description="b", extension="c", sound="d")
        ),
    ),
    (
        "TIMSoundElem",
        {"Url": "u", "UUID": "i", "Size": 9, "Second": 4, "Download_Flag": 2},
        pb.MessageElement(
            media=pb.MediaElement(url="u", uuid="i", size=9, duration=Duration(seconds=4))
        ),
    ),
    (
        "TIMImageElem",
        {
            "UUID": "i",
            "ImageFormat": 1,
            "ImageInfoArray": [
                {"Type": 1, "Size": 900, "Width": 30, "Height": 20, "URL": "large"},
                {"Type": 3, "Size": 100, "Width": 3, "Height": 2, "URL": "small"},
            ],
        },
        pb.MessageElement(
            media=pb.MediaElement(
                uuid="i",
                format="1",
                size=900,
                width=30,
                height=20,
                url="large",
                thumbnail_url="small",
            )
        ),
    ),
    (
        "TIMFileElem",
        {"Url": "u", "UUID": "i", "FileSize": 7, "FileName": "f.pdf", "Download_Flag": 2},
        pb.MessageElement(media=pb.MediaElement(url="u", uuid="i", size=7, file_name="f.pdf")),
    ),
    (
        "TIMVideoFileElem",
        {
            "VideoUrl": "u",
            "VideoUUID": "i",
            "VideoSize": 8,
            "VideoSecond": 5,
            "VideoFormat": "mp4",
            "ThumbUrl": "t",
        },
        pb.MessageElement(
            media=pb.MediaElement(
                url="u",
                uuid="i",
                size=8,
                duration=Duration(seconds=5),
                format="mp4",
                thumbnail_url="t",
            )
        ),
    ),
    ("TIMRelayElem", {"Title": "t"}, pb.MessageElement(json='{"Title":"t"}')),
    ("TIMBrandNewElem", {"x": [1]}, pb.MessageElement(json='{"x":[1]}')),
]


@pytest.mark.parametrize(("kind", "content", "expected"), KINDS, ids=[kind for kind, *_ in KINDS])
def test_every_kind_of_element_is_read(
    kind: str, content: dict[str, Any], expected: pb.MessageElement
) -> None:
    expected.type = kind
    assert element(kind, content) == expected


def test_the_order_of_mixed_elements_is_kept_and_their_number_bounded() -> None:
    parts = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": str(n)}} for n in range(150)]
    assert [each.text for each in read("key", parts).elements] == [
        str(n) for n in range(MAX_ELEMENTS)
    ]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = sorted({field for _, content, _ in KINDS for field in content} | {"Size", "URL", "Width"})


@given(
    st.lists(
        json_values
        | st.fixed_dictionaries(
            {
                "MsgType": st.sampled_from([kind for kind, *_ in KINDS]) | json_values,
                "MsgContent": st.dictionaries(st.sampled_from(fields), json_values) | json_values,
            }
        )
    )
)
def test_no_body_whatsoever_breaks_it(body: list[Any]) -> None:
    assert read("key", body).key == "key"


def test_an_image_without_a_format_has_none() -> None:
    assert element("TIMImageElem", {"UUID": "i"}).media.format == ""


def test_a_length_may_be_a_part_of_a_second() -> None:
    assert element("TIMSoundElem", {"Second": 3.5}).media.duration.ToMilliseconds() == 3_500


def test_true_is_no_number() -> None:
    assert element("TIMLocationElem", {"Latitude": True}).location.latitude == 0
    assert not element("TIMSoundElem", {"Second": True}).media.HasField("duration")


@pytest.mark.parametrize("value", [2**31, -(2**40), "5", True, None, [1]])
def test_numbers_that_do_not_fit_are_left_out(value: Any) -> None:
    image = {"ImageInfoArray": [{"Width": value, "Size": 1}]}
    assert element("TIMImageElem", image).media.width == 0
