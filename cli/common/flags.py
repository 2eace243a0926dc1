"""Flags made of the fields of options models, and commands whose help shows them in sections."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adaptdock.errors import UsageError
from adaptdock.plugins import registry
from adaptdock.plugins.contracts import LoadOptions

MAIN, OUTPUT = "What to train", "Where it goes"
"""Sections of the help of what trains."""
NUMBERS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


class Flag(click.Option):
    """An option that stands in a section of its command's help, and a default that is only shown."""

    def __init__(self, declarations: Iterable[str], section: str = "Options", shown: str = "", **settings: Any) -> None:
        super().__init__(list(declarations), **settings)
        self.section, self.shown = section, shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the flag and its help, with the default that applies."""
        record = super().get_help_record(ctx)
        return (record[0], f"{record[1]}  [{self.shown}]".strip()) if record and self.shown else record

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the values that the metavar lists, such as [lora|prefix], or those of the type."""
        if not (self.metavar or "").startswith("["):
            return super().shell_complete(ctx, incomplete)
        values = str(self.metavar).strip("[]").split("|")
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]


class SectionedCommand(click.Command):
    """A command whose help groups the options by their sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order in which they occur; plain options come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                section = parameter.section if isinstance(parameter, Flag) else "Other options"
                sections.setdefault(section, []).append(record)
        for title in sorted(sections, key=lambda title: title == "Other options"):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class DeferredCommand(click.Command):
    """A command whose flags depend on its arguments, such as the method and task in them.

    Click needs all parameters of a command before it parses. So ``build`` searches the arguments and returns the full
    command, which parses them.
    """

    def __init__(self, name: str, build: Callable[[Sequence[str]], click.Command], help_text: str) -> None:
        super().__init__(name, help=help_text)
        self._build = build

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Build the command for these arguments, and parse them."""
        full_command = self._build(args)
        full_command.params += [parameter for parameter in self.params if parameter not in full_command.params]
        return full_command.make_context(info_name, args, parent, **extra)


def batch_size_option(items: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--batch-size`` of a command that computes without training; ``items`` fill a batch."""
    limits = click.IntRange(min=1)
    return click.option(
        "--batch-size", cls=Flag, type=limits, default=32, show_default=True, help=f"{items} in a batch."
    )


@dataclass(frozen=True)
class FieldFlags:
    """The flags of one model: the parameter of each field, where a value was given."""

    owner: str
    flags: tuple[Flag, ...]
    fields: Mapping[str, str]
    """Parameter name -> field name."""

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return field -> value for the parameters that were given."""
        return {field: values[name] for name, field in self.fields.items() if values.get(name) is not None}


def field_flags(
    model: type[BaseModel],
    owner: str,
    section: str,
    taken: Iterable[str] = (),
    shown: Mapping[str, Any] | None = None,
) -> FieldFlags:
    """Make a flag of each field of a model; ``owner`` goes before a name that is taken.

    ``shown`` are defaults that differ from the model's. Values are strings here: the model
    validates them.
    """
    reserved, flags, fields = set(taken), [], {}
    for name, info in model.model_fields.items():
        if get_origin(info.annotation) is dict:
            continue
        parameter = f"{owner}_{name}" if name in reserved else name
        default = (shown or {}).get(name, info.get_default(call_default_factory=True))
        flags.append(_flag(parameter, info, section, default))
        fields[parameter] = name
    return FieldFlags(owner, tuple(flags), fields)


def _flag(parameter: str, info: FieldInfo, section: str, default: Any) -> Flag:
    name = parameter.replace("_", "-")
    described = (info.description or "").strip()
    settings: dict[str, Any] = {"section": section, "help": described, "default": None, "shown": _shown(default)}
    if info.annotation is bool:
        return Flag([f"--{name}/--no-{name}", parameter], **settings)
    return Flag([f"--{name}", parameter], type=str, metavar=_metavar(info.annotation), **settings)


def _shown(default: Any) -> str:
    if default is None or default == () or default == []:
        return ""
    if isinstance(default, bool):
        return f"default: {'on' if default else 'off'}"
    return f"default: {','.join(map(str, default)) if isinstance(default, list | tuple) else default}"


def _metavar(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return "|".join(_metavar(part) for part in get_args(annotation) if part is not NoneType)
    if origin is Literal:
        return f"[{'|'.join(map(str, get_args(annotation)))}]"
    if origin in (tuple, list):
        return "A,B,..."
    return NUMBERS.get(annotation, "VALUE")


def peek(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option before the arguments are parsed."""
    value = None
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        if argument == f"--{name}":
            value = following
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value


# ----------------------------------------------------------------------- options of several commands

_LOADING = field_flags(LoadOptions, "load", "Backbone")
SHARDING = next(flag for flag in _LOADING.flags if flag.name == "shard_backbone")
"""The flag of the only command that several processes run together."""
LOADING = FieldFlags(
    _LOADING.owner,
    tuple(flag for flag in _LOADING.flags if flag is not SHARDING),
    {name: field for name, field in _LOADING.fields.items() if name != SHARDING.name},
)
DATA = "Data"


def data_flags(splits: Mapping[str, str]) -> list[Flag]:
    """Return the options for data: a folder or hub name, or a file for each given split."""
    return [
        Flag(["--data"], section=DATA, metavar="PATH|NAME", help="Folder, file, or name of a hub data set."),
        *(Flag([f"--{split}"], section=DATA, metavar="FILE", help=line) for split, line in splits.items()),
        Flag(
            ["--format", "format"],
            section=DATA,
            metavar="NAME",
            help="Format of the files (conll, conllu, jsonl, json, csv, tsv, parquet, fasttext, lines, document), or "
            "the annotation tool that exported them (doccano, prodigy, label-studio, label-studio-min, spacy, docbin, "
            "brat, webanno, cas, spans); recognised by content and suffix unless named here.",
        ),
        Flag(
            ["--columns"],
            section=DATA,
            multiple=True,
            metavar="FIELD=COLUMN",
            help="Column of a field of the task, such as tags=3 or tokens=words. Numbers are for a table without a "
            "header. May be repeated.",
        ),
        Flag(
            ["--encoding"],
            section=DATA,
            metavar="NAME",
            help="Encoding of text files. auto reads lines that are not UTF-8 as Windows-1252 and counts them.",
            shown="default: utf-8",
        ),
    ]


def how_flags() -> list[Flag]:
    """Return the options for method, backbone and configuration file."""
    methods = "|".join(registry.names("method"))
    default = {"method": f"default: {registry.DEFAULT_METHOD}", "backbone": f"default: {registry.DEFAULT_BACKBONE}"}
    return [
        Flag(["--method"], section=MAIN, metavar=f"[{methods}]", help="Adapter method.", shown=default["method"]),
        Flag(
            ["--backbone"],
            section=MAIN,
            metavar="NAME|PATH",
            help="Alias, model folder, GGUF file or hub id.",
            shown=default["backbone"],
        ),
        Flag(
            ["--config"],
            section=MAIN,
            metavar="FILE",
            help="YAML or TOML file with flags. The command line overrides it.",
        ),
    ]


def dry_run_flags() -> list[Flag]:
    """Return the option that trains nothing, and the option that shows every setting with it."""
    return [
        Flag(["--dry-run"], section=MAIN, is_flag=True, help="Show what would be trained, and write nothing."),
        Flag(["--verbose"], section=MAIN, is_flag=True, help="With --dry-run, show every setting."),
    ]


def check_verbose(values: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for --verbose without --dry-run."""
    if values["verbose"] and not values["dry_run"]:
        raise UsageError("--verbose shows every setting of a --dry-run; a training run keeps them in its config.json")


@dataclass(frozen=True)
class Place:
    """An option for an output path: its help, its default and its metavar."""

    help: str
    default: str
    metavar: str = "FOLDER"


def output_flags(output: Place, run_dir: Place, named: bool = True) -> list[Flag]:
    """Return the options for output paths; ``named`` adds the name of a single adapter."""
    name = Flag(["--name"], section=OUTPUT, help="Name of the adapter, in its card.", shown="default: the task's")
    return [
        _place(["--output", "-o"], output),
        Flag(["--overwrite"], section=OUTPUT, is_flag=True, default=None, help="Replace existing output."),
        _place(["--run-dir"], run_dir),
        *([name] if named else []),
        Flag(["--json", "as_json"], section=OUTPUT, is_flag=True, help="Print JSON."),
    ]


def _place(flags: Sequence[str], place: Place) -> Flag:
    shown = f"default: {place.default}"
    return Flag(flags, section=OUTPUT, metavar=place.metavar, help=place.help, shown=shown)


def load_options(values: Mapping[str, Any]) -> LoadOptions:
    """Return the validated load options among the parameters of a command."""
    from adaptdock.engine.core.assembly import validated

    return validated(LoadOptions, _LOADING.given(values), "backbone")
