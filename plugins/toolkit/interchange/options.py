"""Typed configurations of other libraries, so that every value is checked before use.

A model declares the options that the import reads. ``SILENT`` names options without an effect beyond the tensors. Any
other option is unknown and reported in a note.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from adaptdock.errors import FileError

SHOWN = 4
"""Largest number of faulty options in a message."""
LONGEST = 60
"""Largest number of characters of a value in a message."""


def compiled(pattern: str) -> re.Pattern[str]:
    """Return a compiled expression; raise :class:`ValueError` for an invalid expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an expression may use what a later Python will read otherwise
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from None


def ends_with(name: str) -> re.Pattern[str]:
    """Return peft's expression to match a name or pattern with the end of a module's path."""
    return compiled(rf"(.*\.)?({name})$")


def under(name: str) -> re.Pattern[str]:
    """Return peft's expression for the modules that a name covers."""
    return compiled(rf"(^|.*\.){name}($|\..*)")


def _checked_end(name: str) -> str:
    ends_with(name)
    return name


def _checked_under(name: str) -> str:
    under(name)
    return name


def _checked_whole(pattern: str) -> str:
    compiled(pattern)
    return pattern


Ending = Annotated[str, AfterValidator(_checked_end)]
"""A name or expression for the end of a module's path."""
Covering = Annotated[str, AfterValidator(_checked_under)]
"""A name or expression for a module with everything inside it."""
Expression = Annotated[str, AfterValidator(_checked_whole)]
"""A regular expression for a whole path."""
Count = Annotated[int, Field(ge=1, le=2**31)]
"""A length, rank or number of layers."""
Index = Annotated[int, Field(ge=0, le=2**31)]
"""The index of a layer or class."""
Real = Annotated[float, Field(ge=-1e30, le=1e30)]
"""A finite number in the range of float32."""
Rate = Annotated[float, Field(ge=0, lt=1)]
"""A dropout probability."""


class ForeignOptions(BaseModel):
    """Options of another library: typed if the import reads them, otherwise kept by name."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    SILENT: ClassVar[frozenset[str]] = frozenset()

    @property
    def unknown(self) -> list[str]:
        """Names of options that are neither read nor known to change nothing."""
        return sorted((self.model_extra or {}).keys() - self.SILENT)

    def value(self, option: str) -> Any:
        """Return the raw value of an untyped option, or None."""
        return (self.model_extra or {}).get(option)

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path, *place: str) -> Self:
        """Return the options in a part of a file; raise :class:`FileError` with each faulty option and its value."""
        return parsed(cls, values, path, *place)


Options = TypeVar("Options", bound=ForeignOptions)


def parsed(model: type[Options], values: Mapping[str, Any], path: Path, *place: str) -> Options:
    """Validate a part of a configuration file; raise pydantic's error."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems: dict[str, str] = {}
        for fault in error.errors():  # a union has a fault of each member
            name = str(fault["loc"][0]) if fault["loc"] else "the whole"
            option = ".".join((*place, name))
            value = "it is missing" if fault["type"] == "missing" else f"it is {_shown(values.get(name))}"
            reason = fault["msg"].removeprefix("Value error, ")
            problems[option] = f"{problems[option]} or {reason}" if option in problems else f"{value} ({reason}"
        listed = [f"{option!r}: {problem})" for option, problem in problems.items()]
        rest = f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        raise FileError(path, f"its options cannot be used: {'; '.join(listed[:SHOWN])}{rest}") from None


def _shown(value: Any) -> str:
    try:
        text = "null" if value is None else repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number with thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
