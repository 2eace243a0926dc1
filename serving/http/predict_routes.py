"""``/v1/predict``: inputs of any adapters, answered by their tasks."""

from fastapi import APIRouter, Request

from adaptdock.errors import UsageError
from adaptdock.serving.http.service import Answered, Service
from adaptdock.serving.schemas import PredictAnswer, Predicted, PredictRequest, Refusal

ERRORS = {status: {"model": Refusal} for status in (400, 401, 403, 404, 408, 413, 422, 429, 503, 504)}


def predicting(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["predict"], responses=ERRORS)  # type: ignore[arg-type]

    @router.post("/v1/predict", response_model_exclude_unset=True)
    async def predict(body: PredictRequest, request: Request) -> PredictAnswer:
        """Return a prediction for each input; inputs of different adapters share batches."""
        one = isinstance(body.adapter, str)
        names = [body.adapter] * len(body.inputs) if one else list(body.adapter)
        if len(names) != len(body.inputs):
            raise UsageError(f"{len(names)} adapters for {len(body.inputs)} inputs: name one, or one for each")
        found = await service.ask(request, names, body.inputs, body.timeout)  # type: ignore[arg-type]  # texts
        return PredictAnswer(predictions=[_told(one, body.render) for one in found])

    return router


def _told(answered: Answered, render: bool) -> Predicted:
    prediction = answered.outcome.prediction
    found = Predicted(adapter=answered.adapter, version=answered.version, prediction=prediction)
    if render:
        found.rendered = answered.task.render(prediction)
    return found
