"""The documents for machines are made from the code, whole, and valid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import yaml
from openapi_spec_validator import validate

from gateway.docs import CONTROLS
from pipeline.errors import ERRORS
from workers.whisper import WhisperParams


async def fetched(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str):
            yield ref
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def follow(document: Any, ref: str) -> Any:
    for name in ref.removeprefix("#/").split("/"):
        document = document[name]
    return document


async def test_openapi_is_valid_and_has_every_route_and_error(url: str) -> None:
    document = json.loads(await fetched(f"{url}/openapi.json"))
    validate(document)
    assert {"/health", "/metrics", "/files", "/files/{file_id}", "/jobs", "/jobs/{job_id}"} <= document["paths"].keys()
    assert all(operation["summary"] for path in document["paths"].values() for operation in path.values())
    assert set(document["components"]["schemas"]["Error"]["properties"]["error_code"]["enum"]) == set(ERRORS)


async def test_a_message_has_its_workers_parameters(url: str) -> None:
    document = json.loads(await fetched(f"{url}/openapi.json"))
    whisp = document["components"]["schemas"]["whisp"]["properties"]
    assert WhisperParams.model_fields.keys() <= whisp.keys()
    assert document["components"]["schemas"]["whisp.data"]["properties"]["data"]["type"] == "array"


async def test_asyncapi_refers_to_what_it_has_and_knows_every_control(url: str) -> None:
    document = yaml.safe_load(await fetched(f"{url}/asyncapi.yaml"))
    assert document["asyncapi"].startswith("3.")
    found = list(references(document))
    assert found
    for ref in found:
        follow(document, ref)
    assert CONTROLS.keys() <= document["components"]["schemas"].keys()


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_the_pages_fetch_nothing_from_elsewhere(url: str, path: str) -> None:
    page = await fetched(url + path)
    assert "<title>Optivus" in page
    assert "https://" not in page
