"""What operators and their tools expect: probes, metrics, the description, and the routes of vLLM."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from served import TEXT, Client, held, labelled, serving, until

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


# ---------------------------------------------------------------------------------------- gateways


@dataclass
class Endpoint:
    """What the endpoint picker of the Gateway API inference extension knows of a model server."""

    waiting: int
    running: int
    capacity: int
    running_adapters: set[str]
    waiting_adapters: set[str]


def scraped(text: str) -> Endpoint:
    """Read an exposition as the endpoint picker does: of the series of a gauge, that with the latest timestamp.

    Of the information on adapters the value is the timestamp.
    """
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(families[f"adaptdock_{name}"].type == "gauge" for name in ("num_requests_waiting", "lora_requests_info"))
    (waiting,), (running,) = (families[f"adaptdock_num_requests_{state}"].samples for state in ("waiting", "running"))
    labels = max(families["adaptdock_lora_requests_info"].samples, key=lambda sample: sample.value).labels
    names = [set(filter(None, map(str.strip, labels[f"{s}_lora_adapters"].split(",")))) for s in ("running", "waiting")]
    return Endpoint(int(waiting.value), int(running.value), int(labels["max_lora"]), *names)


def test_a_gateway_reads_the_queue_and_the_adapters_that_are_docked_or_awaited(client: Client) -> None:
    began = time.time()
    for name in ("red", "blue"):
        client.ask(name, TEXT)
    idle = scraped(client.get("/metrics").text)
    assert (idle.waiting, idle.running, idle.waiting_adapters) == (0, 0, set())
    assert {"red", "blue"} <= idle.running_adapters
    assert idle.capacity == len(client.service.catalog.names)
    with ThreadPoolExecutor() as pool:
        with held(client):
            first = pool.submit(client.ask, "red", TEXT)
            until(lambda: scraped(client.get("/metrics").text).running == 1)
            others = [pool.submit(client.ask, "blue", TEXT) for _ in range(2)]
            until(lambda: client.service.batcher.waiting == 3)
            busy = scraped(client.get("/metrics").text)
        assert (busy.running, busy.waiting, busy.waiting_adapters) == (1, 2, {"blue"})
        assert all(answer.result() for answer in [first, *others])
    families = text_string_to_metric_families(client.get("/metrics").text)
    (info,) = (family for family in families if family.name == "adaptdock_lora_requests_info")
    (sample,) = info.samples
    assert began <= sample.value <= time.time()


def test_the_number_of_adapters_that_fit_follows_from_the_budget(backbone: Backbone, folder: Path) -> None:
    def docked(client: Client) -> dict[str, float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = [s for family in families for s in family.samples if s.name == "adaptdock_resident_bytes"]
        return {sample.labels["adapter"]: sample.value for sample in samples}

    with serving(backbone, adapters=str(folder)) as client:
        client.ask("red", TEXT)
        size = int(docked(client)["red"])
    with serving(backbone, adapters=str(folder), device_bytes=2 * size + size // 2) as client:
        client.ask("red", TEXT)
        endpoint = scraped(client.get("/metrics").text)
        sizes = [size for size in docked(client).values() if size]
    assert endpoint.capacity == min(3, int(2.5 * size * len(sizes) / sum(sizes)))
    assert endpoint.running_adapters == {"red"} or len(sizes) > 1


def test_metrics_are_open_only_where_this_was_asked_for(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    new_token(file, "predict")
    for is_open, status in ((False, 401), (True, 200)):
        options = {"adapters": str(folder), "tokens": str(file), "open_metrics": is_open}
        with serving(backbone, read_tokens(file), **options) as client:
            assert client.get("/metrics").status_code == status
            assert client.get("/v1/adapters").status_code == 401


def test_the_manifest_for_kubernetes_names_metrics_that_there_are(client: Client) -> None:
    manifest = (Path(__file__).parents[3] / "examples" / "serving" / "gateway.yaml").read_text()
    documents = list(yaml.safe_load_all(manifest))
    assert [document["kind"] for document in documents] == ["Deployment", "InferencePool", "Deployment"]
    names = set(re.findall(r"adaptdock_[a-z_]+", manifest))
    assert len(names) == 3
    exposed = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    assert names <= exposed
    container = documents[0]["spec"]["template"]["spec"]["containers"][0]
    probes = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
    assert [client.get(path).status_code for path in probes] == [200, 200]
