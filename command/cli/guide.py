"""The text that `desk serve` prints when it is ready: its addresses, and commands to try."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from command.address import DEFAULT_GRPC, Address
from command.settings import Settings

SESSION_ID = "2baf4d84-beb4-4607-a1ea-6ebcaef3e0e6"
SAMPLE: dict[str, Any] = {
    "CallbackCommand": "Desk.SessionEventNotify",
    "SessionId": SESSION_ID,
    "Event": "ChatBot.UserSendMsg",
    "EventTime": 1725540020017,
    "ChannelType": "SDK",
    "ClientUserId": "your_user_id",
    "CustomerServiceId": "@customer_service_account",
    "MsgKey": "152_1600012345_abcdefg",
    "MsgBody": [
        {"MsgType": "TIMTextElem", "MsgContent": {"Text": "How to request a refund?"}},
    ],
}
"""The sample callback of the vendor's page, without the fields that have no meaning in it."""

BEGIN = {
    name: SAMPLE[name]
    for name in ("CallbackCommand", "SessionId", "ChannelType", "ClientUserId", "CustomerServiceId")
} | {"Event": "SessionBegin", "EventTime": 1725540020000}
"""The callback that must come before the sample: it begins the session."""

TEMPLATE = """
Desk Sessions is ready.

  callbacks  {url}
  gRPC       {grpc}
  console    {console}

Try it: begin a session, send the vendor's sample message, see what it did.
{signing}
  {begin}

  {sample}

  {desk} sessions explain {session}{app_option}{target}

Or simulate a contact centre, and watch it in another terminal:

  {token}{desk} simulate {url} --app {app} --sessions 20 --rate 20

  {desk} watch{target}
"""

SIGNING = """
This app's callbacks must be signed. With its token in TOKEN:

  T=$(date +%s); S=$(printf %s "$TOKEN$T" | sha256sum | cut -d' ' -f1)
"""


def getting_started(
    settings: Settings, http: Address, grpc: Address, console: Address | None
) -> str:
    """Return the text, with the addresses that the processes listen on."""
    app = settings.sdk_app_ids[0]
    url = f"http://{http.from_here()}{settings.callback_path}"
    signed = app in settings.callback_tokens
    target = str(grpc.from_here())
    return TEMPLATE.format(
        desk=_this_command(),
        url=url,
        grpc=target,
        console=f"http://{console.from_here()}" if console else "none",
        signing=SIGNING if signed else "",
        begin=_curl(url, app, BEGIN, signed=signed),
        sample=_curl(url, app, SAMPLE, signed=signed),
        session=SESSION_ID,
        app=app,
        token='DESK_SIMULATE_TOKEN="$TOKEN" ' if signed else "",
        app_option=f" --app {app}" if len(settings.sdk_app_ids) > 1 else "",
        target="" if target == str(DEFAULT_GRPC) else f" --target {target}",
    )


def _this_command() -> str:
    """Return the command that runs this `desk` in a shell like the present one."""
    script = Path(sys.executable).with_name("desk")
    found = shutil.which("desk")
    if found and script.exists() and Path(found).samefile(script):
        return "desk"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m command"
    below = script.is_relative_to(Path.cwd())
    return shlex.quote(os.path.relpath(script) if below else str(script))


def _curl(url: str, app: int, callback: dict[str, Any], *, signed: bool) -> str:
    parameters = {
        "SdkAppid": app,
        "CallbackCommand": "Desk.SessionEventNotify",
        "contenttype": "json",
        "ClientIP": "127.0.0.1",
        "OptPlatform": "RESTAPI",
    }
    query = shlex.quote(f"{url}?{urlencode(parameters)}")
    if signed:
        query += '"&RequestTime=$T&Sign=$S"'
    return f"curl -sS {query} -d {shlex.quote(json.dumps(callback, separators=(',', ':')))}"
