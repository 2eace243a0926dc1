"""UIMA CAS as INCEpTION exports it: JSON, or XMI with ``TypeSystem.xml`` beside it, read through dkpro-cassis."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptdock.engine.data.spans.findings import Findings
from adaptdock.engine.data.spans.tool import FileTool
from adaptdock.engine.data.spans.webanno import BUILT_IN, ENTITY_FEATURE, ENTITY_LAYER
from adaptdock.engine.data.text_files import Texts
from adaptdock.errors import DataError
from adaptdock.plugins.annotations import AnnotatedText, LabelledSpan

XMI = ".xmi"
TYPES = "TypeSystem.xml"
KEYS = (b'"%TYPES"', b'"%FEATURE_STRUCTURES"')
SEGMENTATION = "de.tudarmstadt.ukp.dkpro.core.api.segmentation.type."
ANNOTATION = "uima.tcas.Annotation"
DOCUMENT = "uima.tcas.DocumentAnnotation"
STRING = "uima.cas.String"


class Cas(FileTool):
    """A CAS; the sentences that it has are texts each, with its tokens as words."""

    name = "cas"
    title = "UIMA CAS"

    def recognises(self, path: Path, texts: Texts) -> bool:
        """Tell XMI by its suffix, and the JSON form by the names of its parts."""
        if not path.is_file():
            return False
        if path.suffix.lower() == XMI:
            return True
        with path.open("rb") as stream:
            head = stream.read(4096)
        return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and any(key in head for key in KEYS)

    def read(self, path: Path, texts: Texts, findings: Findings) -> Iterator[AnnotatedText]:
        """Yield the sentences of a document, or the document where it has none."""
        cas = _loaded(path)
        text = cas.sofa_string
        if not text:
            raise DataError(f"{path}: a CAS without a text")
        layer, feature = _layer(cas, path, findings)
        annotations = [(part.begin, part.end, getattr(part, feature, None)) for part in cas.select(layer)]
        tokens = [(token.begin, token.end) for token in _select(cas, f"{SEGMENTATION}Token")]
        parts = [(part.begin, part.end) for part in _select(cas, f"{SEGMENTATION}Sentence")] or [(0, len(text))]
        placed: set[int] = set()
        for start, end in parts:
            place = f"{path}[{start}:{end}]"
            spans = []
            for number, (first, last, label) in enumerate(annotations):
                if not start <= first < last <= end:
                    continue
                placed.add(number)
                if label:
                    spans.append(LabelledSpan(first - start, last - start, str(label), text[first:last]))
                else:
                    findings.add("spans have no label and are left out", place)
            words = tuple(
                LabelledSpan(first - start, last - start, stated=text[first:last])
                for first, last in tokens
                if start <= first < last <= end
            )
            yield AnnotatedText(text[start:end], place, tuple(spans), words=words, document=path.stem)
        for number, (first, last, label) in enumerate(annotations):
            if number not in placed:
                findings.add(
                    "spans are in no sentence, or in two, and are left out", f"{path} ({first} to {last}, {label})"
                )


def _loaded(path: Path) -> Any:
    try:
        import cassis
    except ImportError:
        raise DataError(
            f"{path}: a UIMA CAS, which is read by dkpro-cassis: pip install 'adaptdock[inception]'. INCEpTION exports "
            f"WebAnno TSV 3 too, which needs nothing"
        ) from None
    types = path.with_name(TYPES)
    try:
        if path.suffix.lower() != XMI:
            return cassis.load_cas_from_json(json.dumps(json.loads(path.read_text(encoding="utf-8-sig"))))
        if not types.is_file():
            raise DataError(f"{path}: {TYPES}, which INCEpTION exports with it, has to be in the same folder")
        with types.open("rb") as stream:
            system = cassis.load_typesystem(stream)
        with path.open("rb") as stream:
            return cassis.load_cas_from_xmi(stream, typesystem=system)
    except DataError:
        raise
    except Exception as error:  # lxml and cassis raise many kinds, all of them about this file
        raise DataError(f"{path}: not a CAS that can be read: {error!r:.120}") from error


def _select(cas: Any, name: str) -> list[Any]:
    return list(cas.select(name)) if cas.typesystem.contains_type(name) else []


def _layer(cas: Any, path: Path, findings: Findings) -> tuple[str, str]:
    """Return the type of the spans and its feature with the label: named entities, or the first other with any."""
    layers: dict[str, str] = {}
    for kind in cas.typesystem.get_types():
        short = kind.name.rpartition(".")[2]
        if (
            kind.name in (ANNOTATION, DOCUMENT)
            or short.startswith(BUILT_IN)
            or not cas.typesystem.subsumes(ANNOTATION, kind)
        ):
            continue
        names = [part.name for part in kind.all_features if getattr(part.rangeType, "name", part.rangeType) == STRING]
        if names and _select(cas, kind.name):
            layers[kind.name] = ENTITY_FEATURE if ENTITY_FEATURE in names else names[0]
    if not layers:
        raise DataError(f"{path}: read as a UIMA CAS, but it has no layer of spans with labels")
    entities = [name for name in layers if name.endswith(f".{ENTITY_LAYER}")]
    layer = (entities or list(layers))[0]
    others = [name.rpartition(".")[2] for name in layers if name != layer]
    if others:
        findings.add(f"files have other layers of spans, which are not read ({', '.join(others)})", str(path))
    return layer, layers[layer]
