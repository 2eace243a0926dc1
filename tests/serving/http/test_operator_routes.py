"""What operators and their tools expect: probes, metrics, the description, and the routes of vLLM."""

import re
from pathlib import Path

import pytest
from served import TEXT, Client, labelled, serving, until

from adaptdock import __version__
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import new_token, read_tokens


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/metrics"])
def test_probes_answer_get_and_head(client: Client, path: str) -> None:
    assert [client.request(method, path).status_code for method in ("GET", "HEAD")] == [200, 200]
    client.service._failed = True
    expected = 200 if path == "/metrics" else 503
    assert [client.request(method, path).status_code for method in ("GET", "HEAD")] == [expected] * 2


def test_metrics_describe_the_process_and_have_no_second_series_for_the_time_of_creation(client: Client) -> None:
    client.ask("red", TEXT)
    text = client.get("/metrics").text
    assert "_created" not in text
    assert re.search(rf'^adaptdock_build_info\{{.*version="{re.escape(__version__)}"\}} 1.0$', text, flags=re.MULTILINE)
    for line in (
        r"process_resident_memory_bytes [1-9]",
        r"process_open_fds [1-9]",
        "adaptdock_queue_seconds_count 1.0",
    ):
        assert re.search(f"^{line}", text, flags=re.MULTILINE), line


def test_series_go_with_their_adapter_even_after_a_late_answer(client: Client) -> None:
    client.ask("red", TEXT)
    assert 'adapter="red"' in client.get("/metrics").text
    client.delete("/v1/adapters/red")
    client.service.metrics.answered("red", 0.1, failed=False)
    client.service.metrics.refused("time", ["red"])
    assert 'adapter="red"' not in client.get("/metrics").text
    assert client.service.metrics.tally("red").requests == 0


def test_the_description_says_which_token_a_request_needs(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    new_token(tmp_path / "tokens.txt", "predict")
    tokens = read_tokens(tmp_path / "tokens.txt")
    with serving(backbone, tokens, adapters=str(folder), tokens=str(tmp_path / "tokens.txt")) as client:
        description = client.get("/openapi.json").json()
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    paths = description["paths"]
    assert paths["/v1/predict"]["post"]["security"] == [{"token": []}]
    assert "scope predict" in paths["/v1/predict"]["post"]["description"]
    assert "scope admin" in paths["/v1/load_lora_adapter"]["post"]["description"]
    assert "security" not in paths["/healthz"]["get"]


def test_without_tokens_the_description_asks_for_none(client: Client) -> None:
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


# --------------------------------------------------------------------------------------------- vLLM


def test_an_adapter_is_loaded_and_unloaded_by_the_routes_of_vllm(
    client: Client, backbone: Backbone, folder: Path
) -> None:
    assert client.post("/v1/unload_lora_adapter", json={"lora_name": "red"}).status_code == 204
    client.refused(404, json={"adapter": "red", "inputs": [TEXT]})
    for path in (None, "red", "red.safetensors", str(folder / "red.safetensors")):
        answer = client.post("/v1/load_lora_adapter", json={"lora_name": "red", "lora_path": path})
        assert (answer.status_code, answer.json()["adapter"]) == (200, "red"), answer.text
    assert client.label("red") == "RED"
    write_file(folder / "violet.safetensors", labelled(backbone, "VIOLET"))
    assert client.post("/v1/load_lora_adapter", json={"lora_name": "violet"}).status_code == 200
    until(lambda: client.label("violet") == "VIOLET")


@pytest.mark.parametrize("path", ["/etc/passwd", "../red.safetensors", "/elsewhere/red.safetensors", "org/red"])
def test_no_path_of_a_request_is_read(client: Client, path: str) -> None:
    error = client.refused(
        422,
        "lora_path",
        "as red.safetensors",
        path="/v1/load_lora_adapter",
        json={"lora_name": "red", "lora_path": path},
    )
    assert error["type"] == "invalid_request_error"


def test_the_routes_of_vllm_need_the_scope_admin(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    secret = new_token(file, "predict")
    with serving(backbone, read_tokens(file), adapters=str(folder), tokens=str(file)) as client:
        for action in ("load", "unload"):
            client.refused(
                403,
                "scope admin",
                path=f"/v1/{action}_lora_adapter",
                json={"lora_name": "red"},
                headers={"authorization": f"Bearer {secret}"},
            )
