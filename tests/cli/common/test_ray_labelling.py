"""``adapt predict --output FOLDER/ --ray``: the parts of a run without Ray, whatever happens to a worker."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow
import pytest
from builders import build_adapter
from live import RUN
from pyarrow import parquet

from adaptdock.cli.common.ray_labelling import ShareWorker
from adaptdock.cli.predict import command
from adaptdock.engine.core import ray_cluster
from adaptdock.hub.artefact.file import write_file

TEXTS = ["ada in rome", "bob sings", "eve", None, "joe runs"]


@pytest.fixture
def lake(backbone, tmp_path):
    (tmp_path / "texts").mkdir()
    write_file(
        tmp_path / "topics.safetensors", build_adapter(backbone, "lora", task="classification", labels=("a", "b"))
    )
    for file in range(2):
        rows = {"id": [100 * file + number for number in range(60)], "text": TEXTS * 12}
        parquet.write_table(pyarrow.table(rows), tmp_path / "texts" / f"{file}.parquet")
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    return tmp_path


def arguments(output: str, *more: object) -> list[str]:
    given = ("topics.safetensors", "--input", "texts/*.parquet", "--output", output, "--part-rows", 10, *more)
    return ["predict", *map(str, given)]


def rows(folder: Path) -> dict[str, list[dict]]:
    return {
        path.relative_to(folder).as_posix(): parquet.read_table(path).to_pylist() for path in folder.rglob("*.parquet")
    }


def test_labelling_without_ray_says_how_to_install_it(adapt, lake, monkeypatch):
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    adapt(*arguments("out/", "--ray")).failed(2, "adapt predict --ray needs Ray: pip install 'adaptdock[ray]'")
    adapt(*arguments("out/", "--ray", "--shard", "1/2")).failed(2, "--shard", "--ray does so by itself")
    adapt(*arguments("out/", "--workers", 2)).failed(2, "--workers and --ray-address", "add --ray")
    adapt(*arguments("out.csv", "--ray")).failed(2, "--ray can only be used with an output folder")
    assert not (lake / "out").exists()


def test_the_shares_of_workers_are_the_parts_of_one_process(adapt, lake):
    assert adapt(*arguments("one/")).status == 2  # rows without a text are rejected
    values = command.make_context("predict", arguments("out/", "--ray")[1:]).params
    words, source, layout = (values.pop(name) for name in ("words", "source", "layout"))
    workers = [ShareWorker((words, source, layout, values), str(lake)) for _ in range(2)]
    outcomes = [workers[share % 2].label(share, 5) for share in range(5)]
    assert rows(lake / "out") == rows(lake / "one")
    assert sum(outcome.counts.rows for outcome in outcomes) == 120
    assert all(outcome.counts.rows for outcome in outcomes)
    assert workers[0].label(0, 5).counts.rows == 0  # a share that is repeated has nothing left to do
    (lake / "texts" / "0.parquet").write_bytes(b"changed")
    values["part_rows"] = 7
    changed = workers[0].label(0, 5)
    assert (changed.counts, changed.data_error) == (None, True)
    assert "what it was made of is different now" in changed.error


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_survives_a_killed_worker_and_has_the_parts_of_one_process(adapt, lake):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'adaptdock[ray]'")
    one = adapt(*arguments("one/"))
    run = [sys.executable, "-c", RUN, *arguments("out/", "--ray", "--workers", 2)]
    with (
        tempfile.TemporaryDirectory(prefix="label", dir="/tmp", ignore_cleanup_errors=True) as temporary,
        (lake / "log").open("w") as log,
    ):
        process = subprocess.Popen(run, stderr=log, env={**os.environ, "RAY_TMPDIR": temporary})
        while process.poll() is None and not list(lake.glob("out/*.parquet")):
            time.sleep(0.02)
        listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        workers = [int(line.split()[0]) for line in listing.splitlines() if "ray::ShareWorker" in line]
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(200) == one.status == 2
    assert rows(lake / "out") == rows(lake / "one")
    assert "24 rows were rejected" in (lake / "log").read_text()
