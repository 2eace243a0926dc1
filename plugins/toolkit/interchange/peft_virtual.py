"""PEFT's table of virtual tokens, which prompt and prefix tuning share."""

from typing import TYPE_CHECKING

from adaptdock.plugins.toolkit.interchange.peft import PeftSource, VirtualOptions
from adaptdock.plugins.toolkit.interchange.tensors import contradiction, refuse

if TYPE_CHECKING:
    from torch import Tensor

TABLE = "prompt_embeddings"


def read_table(source: PeftSource[VirtualOptions], rows: int, width: int) -> "Tensor":
    """Take the table (rows, width); raise :class:`UsageError` for another shape."""
    length = source.options.num_virtual_tokens
    table = source.tensors.take(TABLE)
    if table.ndim != 2 or table.shape[1] != width:
        raise refuse(f"the tensor {TABLE!r}", f"its shape is {tuple(table.shape)}, and rows are {width} wide here")
    if len(table) != rows:
        configured = f"{length}" if rows == length else f"{length} for each of {rows // length} halves of the model"
        raise contradiction(source.tensors.path, "num_virtual_tokens", configured, TABLE, f"has {len(table)} rows")
    return table
