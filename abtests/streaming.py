"""A long answer, piece by piece, under either kind of server: each is content with its own kind of iterator alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

_PIECE = 64 * 1024


def streamed(request: HttpRequest, text: Iterable[str], *, content_type: str) -> StreamingHttpResponse:
    pieces = _pieces(text)
    return StreamingHttpResponse(
        _in_threads(pieces) if isinstance(request, ASGIRequest) else pieces, content_type=content_type
    )


def _pieces(text: Iterable[str]) -> Iterator[str]:
    waiting: list[str] = []
    size = 0
    for item in text:
        waiting.append(item)
        size += len(item)
        if size >= _PIECE:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


async def _in_threads(pieces: Iterator[str]) -> AsyncIterator[str]:
    following = sync_to_async(lambda: next(pieces, None))
    while (piece := await following()) is not None:
        yield piece
