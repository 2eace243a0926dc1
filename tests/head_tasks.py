"""A task for tests that has whatever head its options name: NER in all else."""

from adaptdock.plugins.contracts import Head, Options
from adaptdock.plugins.toolkit.heads import LanguageModelHead, SequenceHead, SpanHead, TokenHead
from adaptdock.tasks.ner import NER


class HeadOptions(Options):
    labels: tuple[str, ...] = ()
    """The head: token, sequence, span or lm, and its number of classes: "token,5"."""


class HeadTask(NER):
    Options = HeadOptions
    options: HeadOptions

    def head(self) -> Head:
        kind, *classes = self.options.labels
        if kind == "lm":
            return LanguageModelHead()
        if kind == "span":
            return SpanHead()
        return {"token": TokenHead, "sequence": SequenceHead}[kind](int(classes[0]))
