"""The processes of one fit: one, or those that torchrun started, which train on shares of each step's rows.

All read the same rows and load the same model; one of them, the main process, writes. Under Python alone there is one
process, and nothing of torch.distributed is touched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

from stream_classifier.errors import ConfigError

__all__ = ["Processes"]

T = TypeVar("T")

_SHARDING = {
    "ACCELERATE_USE_FSDP": "start it with torchrun or accelerate launch --multi_gpu, and give fit --fsdp",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not supported; start it with torchrun, and give fit --fsdp",
}
"""What `accelerate launch` sets to have every process hold a part of the model, and what to do instead: its settings
would differ from those that a checkpoint here is made with."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Where this process stands among the others.

    Attributes:
        rank: 0 to `count` - 1; 0 is the main process.
        count: processes in all.
    """

    rank: int
    count: int

    @classmethod
    def started(cls) -> Processes:
        """As torchrun says in the environment, without talking to the others yet.

        Raises:
            ConfigError: the launcher asks for a model divided among the processes, which is for `FitSettings.fsdp`.
        """
        asked = next((name for name in _SHARDING if os.environ.get(name, "").lower() in ("1", "true", "yes")), None)
        if asked is not None:
            raise ConfigError(f"{asked} is set, but how a model is divided is for fit to say; {_SHARDING[asked]}")
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def connect(self, *, on_cpu: bool, divides: bool = False) -> None:
        """Joins the others. On the CPU through gloo, on GPUs through NCCL; a GPU each.

        When they divide a model, GPUs have both: the parts of a whole one are gathered in the main process's memory.
        """
        if self.count > 1:
            from accelerate import PartialState

            PartialState(cpu=on_cpu, backend="cuda:nccl,cpu:gloo" if divides and not on_cpu else None)

    def wait(self) -> None:
        """Blocks until all are here."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.barrier()

    def from_main(self, value: T | None) -> T:
        """The main process's value, in all of them; blocks until it has one."""
        values: list[Any] = [value]
        if self.count > 1:
            import torch.distributed

            torch.distributed.broadcast_object_list(values, src=0)
        result: T = values[0]
        return result

    def end(self) -> None:
        """Takes leave of the others, at the end of the program."""
        if self.count > 1:
            import torch.distributed

            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
