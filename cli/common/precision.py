"""``--precision``: the precision of the frozen backbone in commands that predict; auto measures the processor once."""

from collections.abc import Callable, Mapping
from typing import Any

from adaptdock.cli.common.flags import LOADING, Flag, load_options
from adaptdock.cli.common.output import note
from adaptdock.errors import UsageError
from adaptdock.plugins.contracts import LoadOptions

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
NAME = "precision"


def precision_flag() -> Flag:
    """Return the option."""
    return Flag(
        ["--precision"],
        section=LOADING.flags[0].section,
        metavar=f"[{'|'.join(PRECISIONS)}]",
        help="Precision of the frozen backbone, like --dtype. auto takes bf16 where it is faster than fp32: on a CPU "
        "the first start measures that, and each start reports it.",
    )


def prediction_options(values: Mapping[str, Any], tell: Callable[[str], None] = note) -> LoadOptions:
    """Return the load options of a command that predicts, with the dtype of ``--precision``.

    ``tell`` gets a sentence for a measured choice, and for int8 that is slower here than bfloat16. Raises
    :class:`UsageError` for an unknown precision, and if it contradicts ``--dtype``.
    """
    options, precision = load_options(values), values.get(NAME)
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"--precision {precision!r}: there is {', '.join(PRECISIONS)}")
    if precision is None and options.quantize != "int8":
        return options
    from adaptdock.engine.core import processor_speed
    from adaptdock.engine.training.planning.hyperparameters import target_device, with_precision

    on_cpu = target_device(options) == "cpu"
    if options.quantize == "int8" and on_cpu and options.quantizer != "bitsandbytes":
        slower = processor_speed.slower_int8()
        if slower:
            tell(slower)
    if precision == "auto" and on_cpu and options.dtype == "auto" and not options.quantize:
        precision = "bf16" if processor_speed.is_faster("bfloat16") else "fp32"
        tell(f"precision {precision}: {processor_speed.sentence('bfloat16')}")
    return options if precision is None else with_precision(options, precision)
