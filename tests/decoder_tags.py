"""A task for tests whose head reads the decoder of an encoder-decoder: NER in all else."""

from adaptdock.plugins.contracts import Head
from adaptdock.plugins.toolkit.heads import TokenHead
from adaptdock.tasks.ner import NER


class DecoderTokenHead(TokenHead):
    reads = "decoder"


class DecoderTags(NER):
    def head(self) -> Head:
        return DecoderTokenHead(len(self.tags))
