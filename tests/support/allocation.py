"""What torch holds at its peak, tensor by tensor.

Resident memory would show what the allocator of the C library keeps, threads and caches; a profiler's events miss what
lived before it. Every tensor that an operation makes passes a `TorchDispatchMode`, forward, backward and optimizer
alike, and its storage says when it goes: the sum is exact, and the same on every machine.
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocation(TorchDispatchMode):
    """Count the bytes of living storages, those of `held` from the start; `peak` is the most there was."""

    def __init__(self, held):
        super().__init__()
        self.living, self.now, self.peak = {}, 0, 0
        for tensor in held:
            self._add(tensor)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.living or not storage.nbytes():
            return
        self.living[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.now -= self.living.pop(key, 0)
