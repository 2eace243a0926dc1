"""Tags of words: the common part of ``ner``, ``pos`` and ``chunking``, and the forms that data has them in."""
