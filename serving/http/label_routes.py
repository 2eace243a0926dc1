"""Routes of the page that confirms drafts: the rows of the file of ``--label-file``, one at a time."""

from fastapi import APIRouter, Request

from adaptdock.engine.data.confirmation import CONFIRMED
from adaptdock.engine.data.drafts import KIND, answer_field
from adaptdock.plugins.contracts import Labelling
from adaptdock.serving.http.authorization import require_all
from adaptdock.serving.http.predict_routes import ERRORS
from adaptdock.serving.http.service import Service
from adaptdock.serving.label_file import AUTHORS, DraftFile, Row, labels_of
from adaptdock.serving.schemas import ConfirmRequest, DraftRow, DraftRows

PATH = "/v1/label-file"


def label_routes(service: Service, drafts: DraftFile) -> APIRouter:
    """Return the routes; a token needs all adapters, as the file may have texts of any."""
    router = APIRouter(tags=["label"], responses=ERRORS)  # type: ignore[arg-type]

    @router.get(PATH)
    def rows(request: Request) -> DraftRows:
        """Return all rows of the file, and the labels to choose from."""
        require_all(request)
        file_rows = drafts.rows()
        return DraftRows(
            kind=file_rows[0][KIND],
            labels=_labels(service, file_rows),
            rows=[_shown(number, row) for number, row in enumerate(file_rows)],
        )

    @router.post(PATH + "/{number}")
    def confirm(number: int, body: ConfirmRequest, request: Request) -> DraftRow:
        """Write the answer of a row into the file, as confirmed by a person."""
        require_all(request)
        return _shown(number, drafts.confirm(number, body.text, body.answer, _labels(service, drafts.rows())))

    return router


def _labels(service: Service, rows: list[Row]) -> list[str]:
    """Return the labels in the file, and those of the served adapters with answers of the same kind."""
    names = set(labels_of(rows))
    for name in service.catalog.names:
        task = service.catalog.served(name).current.assembly.task
        if isinstance(task, Labelling) and task.answer_kind == rows[0][KIND]:
            names |= set(task.label_names)
    return sorted(names)


def _shown(number: int, row: Row) -> DraftRow:
    rest = (*AUTHORS, KIND, CONFIRMED, "text", "margin", "place", "label", "tags", "tokens")
    return DraftRow(
        number=number,
        text=row["text"],
        tokens=row.get("tokens"),
        fields={name: value for name, value in row.items() if name not in rest},
        answer=row.get(answer_field(row[KIND])),
        drafts={author: row[author] for author in AUTHORS if author in row},
        confirmed=row[CONFIRMED] is True,
    )
