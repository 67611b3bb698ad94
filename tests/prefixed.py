"""A reverse proxy that serves a server below a path of its own, as nginx does by `location /media/`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

import aiohttp
from aiohttp import web

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "host"})


class Prefixed:
    """Forwards what is asked for below `prefix` to `target`, with the target as `Host`; all else is not found.

    asked: the paths that came in, those that are not found too.
    """

    def __init__(self, target: str, prefix: str) -> None:
        self._target = target
        self._prefix = prefix
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.root = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.url = f"{self.root}{self._prefix}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()
        await self._runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if not request.path.startswith(f"{self._prefix}/"):
            raise web.HTTPNotFound
        url = self._target + request.path_qs.removeprefix(self._prefix)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, url)
        async with self._http.request(request.method, url, headers=headers, data=request.content) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    async def _websocket(self, request: web.Request, url: str) -> web.WebSocketResponse:
        theirs = web.WebSocketResponse(max_msg_size=0)
        await theirs.prepare(request)
        async with self._http.ws_connect(url, max_msg_size=0) as ours:
            pumps = [asyncio.create_task(_pump(*ends)) for ends in ((theirs, ours), (ours, theirs))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        with contextlib.suppress(ConnectionError):
            await theirs.close()
        return theirs


Wire = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: Wire, target: Wire) -> None:
    with contextlib.suppress(ConnectionError):
        async for message in source:
            if message.type is aiohttp.WSMsgType.TEXT:
                await target.send_str(message.data)
            else:
                await target.send_bytes(message.data)
