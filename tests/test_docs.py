"""The documents for machines are made from the code, whole, and valid."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import yaml
from jsonschema import ValidationError
from openapi_spec_validator import validate

from contract.errors import ERRORS
from gateway.docs import CONTROLS
from tests.documented import check, check_answer, openapi
from workers.whisper.params import WhisperParams


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


async def test_every_route_says_what_it_answers(url: str) -> None:
    document = json.loads(await fetched(f"{url}/openapi.json"))
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            done = [
                body for status, body in operation["responses"].items() if status.startswith("2") and status != "204"
            ]
            assert done, (method, path)
            assert all("content" in body for body in done), (method, path)


async def test_answers_over_http_are_what_the_document_says(url: str) -> None:
    document = openapi(url)
    async with aiohttp.ClientSession() as http:

        async def ask(method: str, path: str, template: str, **options: Any) -> Any:
            async with http.request(method, url + path, **options) as response:
                content = document["paths"][template][method.lower()]["responses"][str(response.status)]["content"]
                answer = await response.json()
            check(document, content["application/json"]["schema"], answer)
            return answer

        await ask("GET", "/health", "/health")
        await ask("GET", "/voices", "/voices")
        form = aiohttp.FormData({"file": io.BytesIO(b"x")})
        kept = await ask("POST", "/files", "/files", data=form)
        await ask("DELETE", f"/files/{kept['file_id']}", "/files/{file_id}")
        body = document["paths"]["/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert body["properties"]["file"]["type"] == "array"
        form = aiohttp.FormData([("file", io.BytesIO(b"x")), ("file", io.BytesIO(b"y"))])
        assert len((await ask("POST", "/files", "/files", data=form))["files"]) == 2
        sent = await ask("POST", "/jobs", "/jobs", json={"type": "contract_echo"})
        job, headers = sent["job_id"], {"Authorization": f"Bearer {sent['token']}"}
        await ask("POST", "/jobs?wait=60", "/jobs", json={"type": "contract_echo"}, headers=headers)
        await ask("GET", "/jobs", "/jobs", headers=headers)
        await ask("GET", f"/jobs/{job}", "/jobs/{job_id}", headers=headers)
        await ask("POST", f"/jobs/{job}/ticket", "/jobs/{job_id}/ticket", headers=headers)
        await ask("POST", f"/jobs/{job}/signals/review", "/jobs/{job_id}/signals/{name}", headers=headers)
        await ask("DELETE", f"/jobs/{job}", "/jobs/{job_id}", headers=headers)


def test_an_answer_with_a_key_that_nobody_described_is_noticed(url: str) -> None:
    document = openapi(url)
    answer = {"type": "whisp", "job_id": "j", "id": None, "seq": 1, "status": "success"}
    spoken: dict[str, Any] = {"text": "", "chunks": [], "language": None, "duration": 1.0}
    check_answer(document, {**answer, "transcribe_audio": spoken})
    for wrong in ({**spoken, "new": 1}, {**spoken, "text": 5}, {key: spoken[key] for key in ("text", "chunks")}):
        with pytest.raises(ValidationError):
            check_answer(document, {**answer, "transcribe_audio": wrong})
