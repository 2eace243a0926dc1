"""Slots: the weights of an adapter packed for stacking, and the stacked weights of a batch's rows.

A slot holds the weights of one method (or head) of one adapter at all its ports, in one flat tensor per
device, in the precision of its file. A slot is immutable, so a batch that holds it keeps its
version of the adapter whatever is docked or undocked meanwhile. The slots of a batch's rows are
stacked page by page: one operation for all ports of a page, for any number of adapters.
"""

import itertools
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

EXPONENTS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
}
"""For each precision, an integer type of its width and the exponent bits, all set in NaN and inf (IEEE 754)."""

Shape = tuple[int, ...]
Tensors = Mapping[str, Mapping[str, Tensor]]
"""Place (a port's name) -> parameter name -> tensor."""

PAGE_ELEMENTS = {"cpu": 2**14}
"""A page is closed at this many elements: on a CPU it must still be in the cache when its ports are computed."""
OTHER_PAGE_ELEMENTS = 2**20
"""The same on other devices: few operations, and still a small part of an adapter of a large backbone."""
KEPT_ELEMENTS = 2**26
"""Stacked pages are kept for the batch up to this many elements; beyond, only the page in use is kept."""


def roomy(extent: int) -> int:
    """Round an extent up to 1, 2, 3, 4, 6, 8, 12, 16, 24, ...

    Adapters of similar size then share a layout, and there are few layouts: two for each doubling.
    """
    power = 1 << max(0, extent - 1).bit_length()
    return power * 3 // 4 if power >= 4 and extent <= power * 3 // 4 else power


@dataclass(frozen=True)
class Page:
    """A part of a slot that is stacked at once: its device, and the place, name and shape of its tensors."""

    device: torch.device
    shapes: tuple[tuple[str, str, Shape], ...]

    @cached_property
    def sizes(self) -> list[int]:
        """The number of elements of each tensor."""
        return [torch.Size(shape).numel() for _, _, shape in self.shapes]

    def views(self, stacked: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the tensors in the stacked page (R, elements), by place and name, as (R, ...)."""
        tensors: dict[str, dict[str, Tensor]] = {}
        for (place, name, shape), part in zip(self.shapes, stacked.split_with_sizes(self.sizes, dim=1), strict=True):
            tensors.setdefault(place, {})[name] = part if len(shape) == 1 else part.view(len(stacked), *shape)
        return tensors


class Stack:
    """The common layout of slots that can be stacked: method or head, pages, precision.

    ``number`` counts the stacks of a dock in the order of their creation.
    """

    def __init__(self, number: int, pages: tuple[Page, ...], dtype: torch.dtype) -> None:
        self.number, self.pages, self.dtype = number, pages, dtype
        self.page_of = {place: number for number, page in enumerate(pages) for place, _, _ in page.shapes}
        self.homes = list(dict.fromkeys(page.device for page in pages))
        self.sizes = {home: [sum(page.sizes) for page in pages if page.device == home] for home in self.homes}
        self.identity = Slot(
            self, [torch.zeros(sum(self.sizes[home]), dtype=dtype, device=home) for home in self.homes]
        )

    def pack(self, tensors: Tensors, device: torch.device | None = None) -> "Slot":
        """Copy tensors into a slot, zero-padded to its shapes; ``device`` overrides the devices of the pages."""
        return Slot(
            self,
            [
                torch.cat(
                    [
                        _padded(tensors[place][name], shape).to(self.dtype).reshape(-1)
                        for page in self.pages
                        if page.device == home
                        for place, name, shape in page.shapes
                    ]
                ).to(device or home)
                for home in self.homes
            ],
        )


class Slot:
    """The packed weights of one method or head of one adapter; ``pages`` are parts of its flat tensors.

    ``number`` belongs to this slot alone, and to no later slot of the process.
    """

    _numbers = itertools.count()

    def __init__(self, stack: Stack, flats: Sequence[Tensor]) -> None:
        self.stack, self.flats, self.number = stack, tuple(flats), next(Slot._numbers)
        self.pages = [
            part
            for flat, home in zip(self.flats, stack.homes, strict=True)
            for part in flat.split_with_sizes(stack.sizes[home])
        ]

    @property
    def nbytes(self) -> int:
        """The bytes that the weights take."""
        return sum(flat.nbytes for flat in self.flats)

    def placed(self) -> "Slot":
        """Return this slot on the devices of its pages; itself if it is there already."""
        homes = self.stack.homes
        if all(flat.device == home for flat, home in zip(self.flats, homes, strict=True)):
            return self
        return Slot(
            self.stack,
            [flat.to(home, non_blocking=flat.is_pinned()) for flat, home in zip(self.flats, homes, strict=True)],
        )

    def is_finite(self) -> bool:
        """Return whether all weights are finite, from the bits of their exponents; the weights are in host memory.

        numpy runs in this thread, where torch would wait for worker threads that may be busy.
        """
        width, exponent = EXPONENTS[self.stack.dtype]
        parts = (flat.view(width).numpy() for flat in self.flats)
        return not any(((part & exponent) == exponent).any() for part in parts)

    def pinned(self) -> "Slot":
        """Return this slot in memory from which a GPU copies while it computes."""
        return Slot(self.stack, [flat.pin_memory() for flat in self.flats])


class Stacks:
    """All stacks of a dock. The same key, layout and precision give the same stack."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Stack] = {}
        self._lock = threading.Lock()

    def for_tensors(
        self, key: Hashable, tensors: Tensors, grows: Mapping[str, int], devices: Mapping[str, torch.device]
    ) -> Stack:
        """Return the stack of these tensors; ``grows`` has the dimension of each parameter that may be padded."""
        shapes = tuple(
            (place, name, _room(tensor.shape, grows.get(name)))
            for place, by_name in tensors.items()
            for name, tensor in by_name.items()
        )
        dtypes = {tensor.dtype for by_name in tensors.values() for tensor in by_name.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32  # a flat tensor has one precision
        dtype = dtype if dtype in EXPONENTS else torch.float32
        full = (key, shapes, dtype)
        with self._lock:
            if full not in self._known:
                self._known[full] = Stack(len(self._known), tuple(_pages(shapes, devices)), dtype)
            return self._known[full]


class Gathered:
    """The slots of a batch's rows, stacked page by page when a place of the page is asked for.

    ``slots`` has one slot per row. Rows that all share one slot get one row of parameters, which broadcasts.
    """

    def __init__(self, slots: Sequence[Slot], dtype: torch.dtype) -> None:
        self.dtype, self._stack = dtype, slots[0].stack
        self.slots = tuple(slots[:1] if all(slot is slots[0] for slot in slots) else slots)
        self._pages: dict[int, dict[str, dict[str, Tensor]]] = {}
        self._kept, self._keeps_all = 0, False

    @property
    def nbytes(self) -> int:
        """The bytes of all pages when they are stacked."""
        return len(self.slots) * sum(sum(sizes) for sizes in self._stack.sizes.values()) * self.dtype.itemsize

    def at(self, place: str) -> dict[str, Tensor]:
        """Return each parameter at a place, (R or 1, ...)."""
        number = self._stack.page_of.get(place)
        if number is None:
            return {}
        if number not in self._pages:
            self._pages[number] = self._stacked(number)
        return self._pages[number][place]

    def all(self) -> None:
        """Stack every page now, and keep them all."""
        self._keeps_all = True
        for page in self._stack.pages:
            self.at(page.shapes[0][0])

    def _stacked(self, number: int) -> dict[str, dict[str, Tensor]]:
        stacked = torch.cat([slot.pages[number] for slot in self.slots]).view(len(self.slots), -1)
        self._kept += stacked.numel()
        if not self._keeps_all and self._kept > KEPT_ELEMENTS:  # a page that is asked for again is stacked again
            self._pages.clear()
            self._kept = stacked.numel()
        return self._stack.pages[number].views(stacked.to(self.dtype))


def _pages(shapes: Sequence[tuple[str, str, Shape]], devices: Mapping[str, torch.device]) -> Iterator[Page]:
    """Divide places among pages: each place in one, all of a page on one device."""
    for device, of_device in groupby(
        sorted(shapes, key=lambda entry: str(devices[entry[0]])), key=lambda entry: devices[entry[0]]
    ):
        limit = PAGE_ELEMENTS.get(device.type, OTHER_PAGE_ELEMENTS)
        page: list[tuple[str, str, Shape]] = []
        elements = 0
        for _, of_place in groupby(of_device, key=lambda entry: entry[0]):
            place = list(of_place)
            page += place
            elements += sum(torch.Size(shape).numel() for _, _, shape in place)
            if elements >= limit:
                yield Page(device, tuple(page))
                page, elements = [], 0
        if page:
            yield Page(device, tuple(page))


def _room(shape: Shape, dimension: int | None) -> Shape:
    if dimension is None:
        return tuple(shape)
    return (*shape[:dimension], roomy(shape[dimension]), *shape[dimension + 1 :])


def _padded(tensor: Tensor, shape: Shape) -> Tensor:
    if tuple(tensor.shape) == shape:
        return tensor
    padding = [target - current for target, current in zip(shape, tensor.shape, strict=True)]
    return functional.pad(tensor, [side for extent in reversed(padding) for side in (0, extent)])
