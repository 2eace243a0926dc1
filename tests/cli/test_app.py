import subprocess
import sys
from pathlib import Path

import click
import pytest

from adaptdock import __version__
from adaptdock.cli.app import COMMANDS, debug_option
from adaptdock.cli.common.failures import describe, run
from adaptdock.errors import DataError, MismatchError

HEAVY = ("torch", "transformers", "datasets", "numpy")
PLUGINS = ("adaptdock.adapters", "adaptdock.tasks", "adaptdock.backbones")
CODE = """
import sys
from adaptdock.cli import main
status = main(sys.argv[2:])
found = sorted(name for name in sys.modules if name.startswith(tuple(sys.argv[1].split(","))))
assert not found, found
sys.exit(status)
"""


def without(modules: tuple[str, ...], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(modules), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_help_and_version_import_no_command_and_nothing_heavy(arguments):
    commands = tuple(module for module, _ in COMMANDS.values())
    out = without((*HEAVY, *PLUGINS, "pydantic", "rich", *commands), *arguments)
    assert "adapt" in out


def test_plugins_and_inspect_import_neither_torch_nor_a_plugin(adapter):
    assert "lora" in without((*HEAVY, *PLUGINS), "plugins")
    assert "places" in without((*HEAVY, *PLUGINS), "inspect", str(adapter))
    assert "places" in without((*HEAVY, *PLUGINS), "inspect", str(adapter), "--json")


def test_predict_imports_neither_the_trainer_nor_what_it_needs(adapter):
    out = without(("transformers.trainer", "peft", "bitsandbytes"), "predict", str(adapter), "ada lives in rome")
    assert "ada" in out


def test_help_names_every_command_with_a_line(adapt):
    ran = adapt("--help")
    assert ran.status == 0
    for name, (_, line) in COMMANDS.items():
        assert f"{name} " in ran.out
        assert line in ran.out


def test_every_command_of_the_table_has_a_help_of_its_own(adapt):
    for name in COMMANDS:
        ran = adapt(name, "--help")
        assert ran.status == 0
        assert ran.out.startswith(f"Usage: adapt {name} ")


def test_the_version_is_printed(adapt):
    assert adapt("--version").out == f"adaptdock {__version__}\n"


def test_an_unknown_command_offers_the_nearest_names(adapt):
    adapt("trian").failed(2, "unknown command 'trian'", "did you mean train?")


def test_an_unknown_option_offers_the_nearest_names(adapt, adapter):
    adapt("inspect", adapter, "--jason").failed(2, "--jason", "Did you mean --json?", "adapt inspect --help")
    adapt("--verson").failed(2, "--version")
    adapt("train", "--task", "ner", "--rnak", 4).failed(2, "Did you mean --rank")


def test_a_missing_argument_is_a_usage_error(adapt):
    adapt("inspect").failed(2, "Missing argument 'FILE'")


def command_that(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("adapt", callback=fail, params=[debug_option(), click.Option(["--x"], expose_value=False)])


def test_an_error_of_ours_keeps_its_exit_status():
    assert describe(DataError("no such file")) == ("no such file", 2)
    assert describe(MismatchError("other weights")) == ("other weights", 1)


def test_any_other_error_is_one_paragraph_that_tells_of_debug(capsys):
    assert run(command_that(ZeroDivisionError("division\nby zero")), ["--x=1"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("Error: ZeroDivisionError: division by zero.")
    assert "--debug" in err


def test_debug_shows_the_traceback(capsys, adapt):
    assert run(command_that(ZeroDivisionError("oh")), ["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    for arguments in (["inspect", "no.safetensors", "--debug"], ["--debug", "inspect", "no.safetensors"]):
        ran = adapt(*arguments)
        assert ran.status == 1
        assert "Traceback" in ran.err


def test_too_little_memory_is_told_with_the_way_out(capsys):
    assert run(command_that(MemoryError()), ["--x=1"]) == 1
    assert "--batch-size" in capsys.readouterr().err
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.")
    assert run(command_that(error), ["--x=1"]) == 1
    assert "out of memory" in capsys.readouterr().err


def test_ctrl_c_ends_quietly(capsys):
    assert run(command_that(KeyboardInterrupt()), ["--x=1"]) == 130
    assert run(command_that(click.Abort()), ["--x=1"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_has_left_ends_the_command_quietly():
    code = "import sys, os; from adaptdock.cli import main; sys.exit(main(['plugins']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr is not None
    with process.stderr as stream:
        assert stream.read() == b""


def test_a_plugin_s_command_is_listed_by_metadata_and_loaded_when_used(adapt, distribution):
    code = "import click\n@click.command()\ndef hello():\n    click.echo('hello there')\n"
    distribution("greeter", "[adaptdock.commands]\nhello = greeter:hello\n", code)
    listed = adapt("--help")
    assert "hello" in listed.out
    assert "greeter 1.0" in listed.out
    assert "greeter" not in sys.modules
    assert adapt("hello").out == "hello there\n"
    assert "hello" in adapt("--help").out
    sys.modules.pop("greeter")


def test_a_broken_command_of_a_plugin_is_named_and_breaks_nothing_else(adapt, distribution):
    distribution("brk", "[adaptdock.commands]\nboom = brk:boom\nnoclick = brk:noclick\n", "noclick = 3\n")
    assert "boom" in adapt("--help").out
    adapt("boom").failed(1, "the command 'boom' of brk 1.0")
    adapt("noclick").failed(1, "not a click command")
    sys.modules.pop("brk", None)


def test_no_file_of_the_room_is_long():
    room = Path(__file__).parents[2] / "cli"
    assert max(len(file.read_text().splitlines()) for file in room.rglob("*.py")) < 500
