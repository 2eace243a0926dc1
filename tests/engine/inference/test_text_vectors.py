"""Vectors of texts: the mean hidden state of the bare model, as transformers gives it."""

import torch
from torch.nn import functional

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.inference.text_vectors import text_vectors
from adaptdock.plugins.contracts import Backbone


def test_a_vector_is_the_mean_hidden_state_of_length_1(backbone: Backbone) -> None:
    texts = ["ada lives in rome", "bob"]
    task = make_task("classification", {"labels": ("a", "b")})
    vectors = text_vectors(Dock(backbone), (), task, [{"text": text} for text in texts], 32)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            states = backbone.model(**backbone.tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, functional.normalize(states.mean(0), dim=-1), atol=1e-5, rtol=0)
