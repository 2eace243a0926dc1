"""A token for some adapters asks, lists and changes only these, and learns nothing about others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import TEXT, Client, labelled, serving

from adaptdock.errors import DataError
from adaptdock.hub.artefact.file import write_file
from adaptdock.plugins.contracts import Backbone
from adaptdock.serving.http.access_tokens import new_token, read_tokens

HIDDEN = ("secret", "secret-too")


@pytest.fixture
def client(tmp_path: Path, backbone: Backbone) -> Iterator[Client]:
    """A client with the token of an administrator of ``legal-*``, and another's adapters beside its own."""
    (tmp_path / "watched").mkdir()
    for number, name in enumerate(("legal-ner", "legal-topic", *HIDDEN)):
        write_file(tmp_path / "watched" / f"{name}.safetensors", labelled(backbone, name.upper(), seed=number))
    everything = new_token(tmp_path / "tokens", "admin", "all")
    some = new_token(tmp_path / "tokens", "admin", "legal", "legal-*, contracts")
    with serving(backbone, known=read_tokens(tmp_path / "tokens"), adapters=str(tmp_path / "watched")) as client:
        headers = {"authorization": f"Bearer {everything}"}
        for alias, target in (("contracts", "legal-ner"), ("other", "legal-ner@1"), ("legal-old", "secret")):
            assert client.put(f"/v1/aliases/{alias}", json={"target": target}, headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
        client.headers["authorization"] = f"Bearer {some}"
        yield client


def test_it_asks_its_own_adapters_by_name_version_alias_and_stack(client: Client) -> None:
    for name in ("legal-ner", "legal-ner@1", "contracts", "other", "legal-topic+legal-ner"):
        assert client.label(name) == "LEGAL-NER"


@pytest.mark.parametrize("name", [*HIDDEN, "secret@1", "legal-old", "legal-ner+secret", "secret+legal-ner", "absent"])
def test_any_other_name_is_refused_whether_it_exists_or_not(client: Client, name: str) -> None:
    body = {"adapter": name, "inputs": [TEXT]}
    assert client.refused(403, "the token is not for", json=body)["type"] == "permission_error"
    mixed = {"adapter": ["legal-ner", name], "inputs": [TEXT, TEXT]}
    client.refused(403, "the token is not for", json=mixed)
    client.refused(403, path="/v1/embeddings", json={"model": name, "input": TEXT})
    client.refused(403, method="get", path=f"/v1/models/{name}")
    client.refused(403, method="get", path=f"/v1/adapters/{name}")


def test_it_lists_its_own_alone_and_unknown_names_tell_nothing(client: Client) -> None:
    answer = client.get("/v1/adapters")
    assert [state["name"] for state in answer.json()["adapters"]] == ["legal-ner", "legal-topic"]
    assert answer.json()["aliases"] == {"contracts": "legal-ner", "other": "legal-ner@1"}
    assert "secret" not in answer.text
    client.refused(404, "legal-ner", json={"adapter": "legal-absent", "inputs": [TEXT]})
    for request in ({"method": "get", "path": "/v1/adapters/legal-absent"}, {"method": "get", "path": "/v1/models"}):
        assert "secret" not in client.request(request["method"], request["path"]).text
    client.refused(403, method="get", path="/metrics")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("put", "/v1/adapters/secret", {"version": 1}),
        ("put", "/v1/adapters/secret/file", None),
        ("delete", "/v1/adapters/secret", None),
        ("delete", "/v1/adapters/%73ecret", None),
        ("post", "/v1/adapters/secret/rollback", None),
        ("post", "/v1/adapters/secret/pin", None),
        ("put", "/v1/adapters/secret/split", {"weights": {"1": 1}}),
        ("put", "/v1/aliases/secret", {"target": "legal-ner"}),
        ("put", "/v1/aliases/legal-x", {"target": "secret"}),
        ("put", "/v1/aliases/legal-x", {"target": "secret@1"}),
        ("delete", "/v1/aliases/legal-old", None),
    ],
)
def test_it_changes_nothing_of_others(client: Client, method: str, path: str, body: Any) -> None:
    before = {name: served.record() for name, served in client.service.catalog.all().items()}
    content: dict[str, Any] = {"json": body} if body else {}
    if path.endswith("/file"):
        content = {"content": b"x", "headers": {"content-type": "application/octet-stream"}}
    client.refused(403, method=method, path=path, **content)
    assert {name: served.record() for name, served in client.service.catalog.all().items()} == before
    assert client.put("/v1/adapters/legal-ner", json={"version": 1}).status_code == 200


@pytest.mark.parametrize(
    "limit", ["adapters=", "adapters=a,,b", "adapters=a b", "adapters=a/b", "adapters=a adapters=b"]
)
def test_a_limit_that_is_none_is_refused_with_its_line(tmp_path: Path, limit: str) -> None:
    (tmp_path / "tokens").write_text(f"me predict {'0' * 64} {limit}\n")
    with pytest.raises(DataError, match="tokens:1"):
        read_tokens(tmp_path / "tokens")
