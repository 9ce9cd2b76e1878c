"""Texts of users, chatbots and agents: invented, in many languages and message types."""

from random import Random
from typing import Any

USER = (
    "How do I get my money back?",
    "我的订单三天了还没发货，能帮我查一下吗？",
    "Paket saya belum sampai, padahal statusnya sudah terkirim 😟",
    "أريد تغيير عنوان التوصيل من فضلك",
    "ログインできません。パスワードを忘れました。",
    "Wo finde ich die Rechnung für März?",
    "배송 조회가 안 돼요",
    "Không thấy mã giảm giá đâu cả",
    "¿Puedo hablar con una persona?",
    "👍🏽👨‍👩‍👧‍👦 ok!!",
    "Где мой заказ № 4417?",
    "ฉันต้องการยกเลิกคำสั่งซื้อ",
    'He said "no refunds" \\ is that true?\nSecond line\twith a tab',
    "שלום, האפליקציה נתקעת",
)

ROBOT = (
    "You can request a refund within 14 days under Orders → Refund.",
    "您好，我是智能助手小岛，请问有什么可以帮您？",
    "Halo! Silakan kirim nomor pesanan Anda 🙏",
    "مرحباً! اختر أحد الخيارات: ١) الطلبات ٢) الحساب",
    "すみません、もう一度お聞かせください。",
    "I did not get that. Shall I look for a colleague?",
)

AGENT = (
    "Hi, this is Mira. Give me a minute to look at it.",
    "您的包裹已重新安排派送，预计明天到达。",
    "Sudah saya proses ya, Kak. Dananya kembali dalam 3 hari ✅",
    "تم تحديث العنوان، هل تحتاج إلى شيء آخر؟",
    "I have sent you a new link; it is good for an hour.",
    "返金の手続きが完了しました。ご確認ください。",
)

AGENTS = tuple(
    f"{name}@desk.example"
    for name in ("mira", "wei", "putri", "omar", "hana", "joao", "lena", "thu", "kofi", "sana")
)


def agent(number: int) -> str:
    """Return the name of an agent, another one for each number."""
    name, domain = AGENTS[number % len(AGENTS)].split("@")
    again = number // len(AGENTS)
    return f"{name}{again + 1 if again else ''}@{domain}"


STRANGER = "nobody@desk.example"
"""Agent in meaningless fields and in impossible events. It must not appear in any answer."""


def message(random: Random, lines: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a `MsgBody`: mostly text, sometimes another type, sometimes both."""
    text = _element("TIMTextElem", Text=random.choice(lines))
    if random.random() < 0.8:
        return [text]
    other = _other(random)
    return [text, other] if random.random() < 0.3 else [other]


def _other(random: Random) -> dict[str, Any]:
    uuid = f"{random.getrandbits(64):016x}"
    url = f"https://files.example/{uuid}"
    size = random.randint(900, 4_000_000)
    return random.choice(
        (
            _element(
                "TIMLocationElem",
                Desc="Jalan Kenanga 12",
                Latitude=round(random.uniform(-90, 90), 6),
                Longitude=round(random.uniform(-180, 180), 6),
            ),
            _element("TIMFaceElem", Index=random.randint(0, 90), Data="smile"),
            _element(
                "TIMCustomElem", Data='{"card":"order","id":4417}', Desc="Order", Ext="", Sound=""
            ),
            _element(
                "TIMSoundElem",
                Url=url,
                UUID=uuid,
                Size=size,
                Second=random.randint(1, 59),
                Download_Flag=2,
            ),
            _element("TIMImageElem", UUID=uuid, ImageFormat=1, ImageInfoArray=_sizes(url, size)),
            _element(
                "TIMFileElem",
                Url=url,
                UUID=uuid,
                FileSize=size,
                FileName="发票 invoice.pdf",
                Download_Flag=2,
            ),
            _element("TIMVideoFileElem", **_video(url, uuid, size)),
            _element("TIMRelayElem", MsgNum=1, CompatibleText="[forwarded]", MsgList=[]),
        )
    )


def _sizes(url: str, size: int) -> list[dict[str, Any]]:
    return [
        {"Type": kind, "Size": size // share, "Width": 1080 // share, "Height": 720 // share,
         "URL": f"{url}/{kind}"}
        for kind, share in ((1, 1), (2, 2), (3, 6))
    ]  # fmt: skip


def _video(url: str, uuid: str, size: int) -> dict[str, Any]:
    return {
        "VideoUrl": url, "VideoUUID": uuid, "VideoSize": size, "VideoSecond": 12,
        "VideoFormat": "mp4", "VideoDownloadFlag": 2, "ThumbUrl": f"{url}/thumb",
        "ThumbUUID": f"{uuid}-t", "ThumbSize": 9000, "ThumbWidth": 198, "ThumbHeight": 352,
        "ThumbFormat": "JPG", "ThumbDownloadFlag": 2,
    }  # fmt: skip


def _element(kind: str, **content: Any) -> dict[str, Any]:
    return {"MsgType": kind, "MsgContent": content}
