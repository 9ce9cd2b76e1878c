"""Answers to requests that fail, in the form that the path asks for."""

import json
from http import HTTPStatus

import falcon
from falcon.asgi import Request, Response

from console.query import BadQuery, Query
from console.site import Site
from desk.client import ClientError, Denied, InvalidRequest, NotFound, OutOfRange, Retryable

_STATUSES: dict[type[Exception], HTTPStatus] = {
    BadQuery: HTTPStatus.BAD_REQUEST,
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    Denied: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    OutOfRange: HTTPStatus.NOT_FOUND,
    Retryable: HTTPStatus.SERVICE_UNAVAILABLE,
    ClientError: HTTPStatus.BAD_GATEWAY,
}

_SENTENCES = {
    HTTPStatus.NOT_FOUND: "the console has no such page",
    HTTPStatus.METHOD_NOT_ALLOWED: "the console answers GET and HEAD only",
    HTTPStatus.INTERNAL_SERVER_ERROR: "the console failed; its log says why",
}
"""Descriptions of errors that Falcon raises without one."""

_UNSEEN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST)
"""Answers to those who may see nothing, not even the style of a page."""


class Problems:
    """Handlers of errors for Falcon."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def refuse(
        self, request: Request, response: Response, error: Exception, params: object
    ) -> None:
        """Answer a query that is wrong, or that the service refuses."""
        status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
        response.status = status
        message = error.detail if isinstance(error, ClientError) else str(error)
        reason = getattr(error, "reason", "") or type(error).__name__
        self._put(request, response, reason, message, request.path)

    def explain(self, request: Request, response: Response, error: falcon.HTTPError) -> None:
        """Answer with an error of Falcon's."""
        status = HTTPStatus(error.status_code)
        message = error.description or _SENTENCES.get(status, status.phrase)
        if status in _UNSEEN:
            response.content_type = falcon.MEDIA_TEXT
            response.text = f"{message}\n"
        else:
            self._put(request, response, status.name, message)

    def _put(
        self, request: Request, response: Response, reason: str, message: str, page: str = ""
    ) -> None:
        """Write an error. `page` is the page to try again."""
        if request.path.endswith((".json", ".csv", "/live")):
            response.content_type = falcon.MEDIA_JSON
            response.text = json.dumps({"error": {"reason": reason, "message": message}})
        else:
            response.content_type = falcon.MEDIA_HTML
            response.text = self._site.render(
                "problem.html",
                page={"path": page, "title": "Problem"},
                query=Query(request.params),
                message=message,
                reason=reason,
            )
