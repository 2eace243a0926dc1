"""Fields with a file: paths of a table, folders of images by class, files in requests."""

from pathlib import Path

import pytest
from PIL import Image

from adaptdock.engine.data.file_fields import check_embedded
from adaptdock.engine.data.sources import Reader, Source
from adaptdock.errors import DataError
from adaptdock.plugins.toolkit.sources import embedded
from adaptdock.tasks.classification import Classification
from adaptdock.tasks.image_classification import ImageClassification

URL = embedded(b"bytes", "image/png")


def test_a_relative_path_in_a_table_is_relative_to_the_folder_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "data" / "train.csv"
    table.parent.mkdir()
    table.write_text(f'file_name,label\nred/1.png,red\n/images/2.png,blue\n"{URL}",green\n')
    records = Reader(ImageClassification, Source(train=str(table))).splits()["train"]
    assert [record["image"] for record in records] == [str(table.parent / "red/1.png"), "/images/2.png", URL]


def test_inputs_of_a_table_without_labels_have_paths_relative_to_the_table_too(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("image\n1.png\n")
    (item,) = Reader(ImageClassification, Source()).inputs(tmp_path / "new.csv", "csv")
    assert item.value == {"image": str(tmp_path / "1.png")}


def test_a_folder_per_class_gives_the_paths_of_its_images(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/cat/2.JPG", "train/dog/1.png", "test/dog/9.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name, "PNG")
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    reader = Reader(ImageClassification, Source(data=str(tmp_path)))
    splits = {
        split: [(Path(record["image"]).relative_to(tmp_path).as_posix(), record["label"]) for record in records]
        for split, records in reader.splits().items()
    }
    assert splits == {
        "train": [("train/cat/1.png", "cat"), ("train/cat/2.JPG", "cat"), ("train/dog/1.png", "dog")],
        "test": [("test/dog/9.png", "dog")],
    }
    assert f"{tmp_path / 'train'}: read as a folder per class, a record per file: cat, dog" in reader.notes()


@pytest.mark.parametrize(
    "item",
    [
        "/etc/passwd",
        {"image": "/etc/passwd"},
        {"path": "/etc/passwd"},
        {"bytes": "/etc/passwd"},
        {"image": {"path": "/etc/passwd"}},
        {"image": URL, "path": "/etc/passwd"},
        {},
    ],
)
def test_a_request_with_a_path_is_refused(item: object) -> None:
    with pytest.raises(DataError, match="the server opens no paths"):
        check_embedded(item, ImageClassification)


def test_a_request_with_the_file_itself_or_for_a_task_of_texts_passes() -> None:
    check_embedded(URL, ImageClassification)
    check_embedded({"image": URL, "id": 7}, ImageClassification)
    check_embedded("/etc/passwd", Classification)
