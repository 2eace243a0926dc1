"""Images in requests: as base64, never as a path of the server."""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image
from served import serving

from adaptdock.engine.conformance.bench import Bench
from adaptdock.engine.conformance.models import tiny_backbone
from adaptdock.engine.core.assembly import method_entries
from adaptdock.engine.inference.dock import Dock
from adaptdock.hub.artefact.file import write_file


def test_an_image_in_base64_is_answered_and_a_path_is_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone("image encoder")
    adapter = Bench.of(backbone, "image-classification").adapter(method_entries("lora", {}), "digits")
    write_file(tmp_path / "digits.safetensors", adapter)
    file, stream = tmp_path / "grey.png", BytesIO()
    Image.new("RGB", (8, 8), "grey").save(stream, "PNG")
    file.write_bytes(stream.getvalue())
    url = f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"
    with Dock(backbone) as dock:
        (expected,) = dock.predict(dock.dock(adapter), [str(file)])
    with serving(backbone, adapters=str(tmp_path)) as client:
        bare, as_object = client.ask("digits", url, {"image": url})
        for answer in (bare, as_object):
            assert answer["prediction"]["label"] == expected["label"]
        for item in (str(file), {"image": str(file)}):
            client.refused(422, "opens no paths", json={"adapter": "digits", "inputs": [item]})
        broken = "data:image/png;base64,aGVsbG8="
        client.refused(422, "not an image", json={"adapter": "digits", "inputs": [broken]})
