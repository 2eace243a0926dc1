"""The curl lines of the document are answered, in their order; no request of any kind is answered with a 5xx."""

import logging
import os
import re
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import build_adapter
from served import Client, listening, serving

from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.configuration import ServingOptions
from adaptdock.serving.http.process import AFTER_DRAIN

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "serving.md").read_text()
LONGEST_ANSWER = 30.0
"""Seconds after which a request counts as hanging."""


def lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def as_request(line: str, sent: Path) -> dict[str, Any]:
    """Return what curl would send, for the flags that the document uses."""
    words = iter(shlex.split(line))
    assert next(words) == "curl"
    arguments: dict[str, Any] = {"method": "GET", "headers": {}}
    for word in words:
        if word == "-X":
            arguments["method"] = next(words)
        elif word == "--json":
            arguments["content"] = next(words).encode()
            arguments["headers"]["content-type"] = "application/json"
            arguments["method"] = "POST" if arguments["method"] == "GET" else arguments["method"]
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            arguments["headers"][name] = value
        elif word == "--data-binary":
            assert next(words) == "@people.safetensors"
            arguments["content"] = sent.read_bytes()
        elif word.startswith("$URL"):
            arguments["url"] = word.removeprefix("$URL")
        else:
            assert word == "-sS", word
    return arguments


def test_the_curl_lines_of_the_document_are_answered(backbone: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    for seed, name in enumerate(("people", "places")):
        write_file(folder / f"{name}.safetensors", build_adapter(backbone, "lora", seed=seed))
    write_file(tmp_path / "people.safetensors", build_adapter(backbone, "lora", seed=7))
    with serving(backbone, adapters=str(folder)) as client:
        assert len(lines()) > 15
        for line in lines():
            answer = client.request(**as_request(line, tmp_path / "people.safetensors"))
            assert answer.status_code in (200, 204), f"{line}: {answer.text}"


def test_every_option_of_the_example_is_one() -> None:
    options = yaml.safe_load((ROOT / "examples" / "serving" / "serve.yaml").read_text())
    assert ServingOptions.model_validate({name.replace("-", "_"): value for name, value in options.items()})
    variables = re.findall(r"ADAPTDOCK_SERVE_(\w+)", (ROOT / "examples" / "serving" / "Containerfile").read_text())
    assert {name.lower() for name in variables} <= set(ServingOptions.model_fields)


def test_the_user_of_the_service_makes_its_tokens_where_it_can_read_them() -> None:
    folder = ROOT / "examples" / "serving"
    unit, options = (folder / "adaptdock.service").read_text(), yaml.safe_load((folder / "serve.yaml").read_text())
    (user,) = re.findall(r"^User=(\w+)$", unit, flags=re.MULTILINE)
    assert f"runuser -u {user} -- /opt/adaptdock/bin/adapt serve --tokens {options['tokens']} --new-token" in unit
    assert f"install -d -o {user} -g {user} -m 700 {Path(options['tokens']).parent}\n" in unit
    assert "DynamicUser" not in unit  # such a user owns no file in /etc
    container = (folder / "Containerfile").read_text()
    (user,) = re.findall(r"^USER (\w+)$", container, flags=re.MULTILINE)
    (tokens,) = re.findall(r"ADAPTDOCK_SERVE_TOKENS=(\S+)", container)
    assert re.search(rf"chown {user} .*{Path(tokens).parent}", container)
    assert f"-v tokens:{Path(tokens).parent} adaptdock --new-token" in container


def test_the_unit_stops_later_than_the_process_ends_by_itself() -> None:
    unit = (ROOT / "examples" / "serving" / "adaptdock.service").read_text()
    options = yaml.safe_load((ROOT / "examples" / "serving" / "serve.yaml").read_text())
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, flags=re.MULTILINE)
    assert int(seconds) > options["drain-delay"] + options["drain"] + AFTER_DRAIN


def test_the_description_names_every_route_with_its_errors(client: Client) -> None:
    description = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/adapters/{name}", "/v1/chat/completions", "/metrics"} <= set(description["paths"])
    refused = description["paths"]["/v1/predict"]["post"]["responses"]
    assert {"200", "404", "413", "422", "429"} <= set(refused)
    assert refused["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/Refusal")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_that_the_description_allows_or_forbids_is_answered_with_a_5xx(
    backbone: Backbone, folder: Path
) -> None:
    """``make fuzz`` tries this for ten minutes ($ADAPTDOCK_FUZZ_SECONDS)."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis.generation import GenerationMode

    statuses: Counter[int] = Counter()

    def ask_all(schema: Any, url: str, number: int) -> None:
        for operation in schema.get_all_operations():
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                strategy = operation.ok().as_strategy(generation_mode=mode)

                @seed(number)
                @given(case=strategy)
                @settings(
                    max_examples=60,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.explicit, Phase.generate],
                    database=None,
                )
                def ask(case: Any) -> None:
                    answer = case.call(base_url=url, timeout=LONGEST_ANSWER)
                    statuses[answer.status_code] += 1
                    assert answer.status_code < 500, f"{case.method} {case.path}: {answer.text}"

                try:
                    ask()
                except Exception as error:
                    if "Unsatisfiable" not in type(error).__name__:
                        raise

    ends, number = time.monotonic() + float(os.environ.get("ADAPTDOCK_FUZZ_SECONDS", 0)), 0
    with serving(backbone, adapters=str(folder), timeout=5) as client, listening(client, 20) as port:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        while number == 0 or time.monotonic() < ends:
            ask_all(schema, f"http://127.0.0.1:{port}", number)
            number += 1
        logging.getLogger(__name__).warning("requests by status: %s", dict(statuses))
        assert statuses.total() > 500
        assert client.get("/readyz").status_code == 200
