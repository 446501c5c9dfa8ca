"""What a piece of work costs a GPU, counted on a CPU: times that the host waits, kernels, bytes that they move."""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# On a GPU each of these waits until the device has done all that it was given.
ASKING = {"tolist", "cpu", "numpy"}
WAITING = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "equal"}
INDEXING = {"index", "index_put", "index_put_"}  # by a mask they ask how many are in it


class Waits:
    """Counts by name the operations that would wait for a device, while it is switched on."""

    def __init__(self):
        self.found, self.on = Counter(), False

    @contextmanager
    def counting(self, on: bool = True):
        before, self.on = self.on, on
        try:
            yield
        finally:
            self.on = before

    def note(self, name: str) -> None:
        if self.on:
            self.found[name] += 1

    @contextmanager
    def watching(self):
        waits = self

        class Asked(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                if getattr(func, "__name__", "") in ASKING:
                    waits.note(func.__name__)
                return func(*args, **(kwargs or {}))

        class Done(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                name = func._schema.name.removeprefix("aten::")
                masks = args[1] if name in INDEXING else ()
                if name in WAITING or any(isinstance(m, torch.Tensor) and m.dtype == torch.bool for m in masks):
                    waits.note(name)
                return func(*args, **(kwargs or {}))

        with Asked(), Done():
            yield self


class Kernels(TorchDispatchMode):
    """Counts kernels, views left out, and the bytes that all but the matrix products read and write."""

    PRODUCTS = ("mm", "addmm", "bmm", "_varlen_attn", "_varlen_attn_backward")

    def __init__(self):
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]
        if func.is_view or name in ("detach", "empty", "empty_like", "_unsafe_view"):
            return found
        self.count += 1
        if name not in self.PRODUCTS:
            outputs = found if isinstance(found, tuple | list) else (found,)
            moved = [one for one in (*args, *outputs) if isinstance(one, torch.Tensor)]
            self.bytes += sum(one.numel() * one.element_size() for one in moved)
        return found
