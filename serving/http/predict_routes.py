"""``/v1/predict``: inputs for any adapters, answered by their tasks."""

from fastapi import APIRouter, Request

from adaptdock.errors import UsageError
from adaptdock.serving.http.service import Answered, Service
from adaptdock.serving.schemas import PredictAnswer, Predicted, PredictRequest, Refusal

ERRORS = {status: {"model": Refusal} for status in (400, 401, 403, 404, 408, 413, 422, 429, 503, 504)}


def predict_routes(service: Service) -> APIRouter:
    """Return the router of ``/v1/predict``."""
    router = APIRouter(tags=["predict"], responses=ERRORS)  # type: ignore[arg-type]

    @router.post("/v1/predict", response_model_exclude_unset=True)
    async def predict(body: PredictRequest, request: Request) -> PredictAnswer:
        """Return a prediction for each input. Inputs of different adapters share batches."""
        single = isinstance(body.adapter, str)
        names = [body.adapter] * len(body.inputs) if single else list(body.adapter)
        if len(names) != len(body.inputs):
            raise UsageError(f"{len(names)} adapters for {len(body.inputs)} inputs: name one, or one for each")
        answers = await service.ask(request, names, body.inputs, body.timeout)  # type: ignore[arg-type]  # texts
        return PredictAnswer(predictions=[_predicted(answered, body.render) for answered in answers])

    return router


def _predicted(answered: Answered, render: bool) -> Predicted:
    prediction = answered.outcome.prediction
    predicted = Predicted(adapter=answered.adapter, version=answered.version, prediction=prediction)
    if render and answered.task is not None:
        predicted.rendered = answered.task.render(prediction)
    return predicted
