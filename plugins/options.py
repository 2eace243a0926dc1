"""Options: what a person can choose about a plugin, validated."""

from collections.abc import Mapping
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Options(BaseModel):
    """Validated options of a plugin; the command line makes a flag of each field.

    A field that holds several values accepts them as one string, divided by commas.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        split = dict(values)
        for name, info in cls.model_fields.items():
            if isinstance(split.get(name), str) and get_origin(info.annotation) in (tuple, list):
                split[name] = [part.strip() for part in split[name].split(",") if part.strip()]
        return split
