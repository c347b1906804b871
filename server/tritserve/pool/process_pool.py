"""The pool that serves: worker processes behind a router. The concrete ``Pool`` of generation.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tritserve.machine import Machine, read_machine
from tritserve.pool.generation import PoolStatus
from tritserve.pool.grammar_checker import GrammarChecker
from tritserve.pool.launch import CHECKER_COMMAND, WORKER_COMMAND, create_kv_memory
from tritserve.pool.observer import PoolObserver
from tritserve.pool.restart import Timing
from tritserve.pool.router import Router
from tritserve.pool.sizing import plan_workers
from tritserve.pool.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tritserve.pool.generation import Generation, GenerationRequest
    from tritserve.protocol import Grammar
    from tritserve.settings import Settings


class ProcessPool:
    """Workers for one packed model.

    Nothing happens before ``start``, which spawns and returns: ``status.ready`` turns true when the first worker has passed its
    self-test, ``status.failed`` says why none ever will. Belongs to the event loop that starts it, in the thread that lives
    as long as the server.
    """

    def __init__(
        self,
        settings: Settings,
        model_path: Path,
        observer: PoolObserver | None = None,
        *,
        machine: Machine | None = None,
        timing: Timing | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        check_command: Sequence[str] = CHECKER_COMMAND,
    ) -> None:
        """Plan workers and memory; ``machine``, ``timing`` and the commands are for tests.

        Raises SettingsError if the KV cache does not fit, OSError if the model file is not there.
        """
        self._starts = plan_workers(settings, machine or read_machine(), model_path, _bytes_of(model_path))
        self._settings = settings
        self._observer = observer or PoolObserver()
        self._timing = timing or Timing()
        self._command = command
        self._checker = GrammarChecker(model_path, settings.max_grammar_seconds, check_command)
        self._router: Router | None = None
        self._supervisor: Supervisor | None = None

    async def start(self) -> None:
        """Spawn the workers; waits for nothing. A second call does nothing."""
        if self._router is not None:
            return
        self._router = Router(self._settings, len(self._starts), self._observer)
        starts = [(start, create_kv_memory(start.kv_bytes)) for start in self._starts]
        self._supervisor = Supervisor(starts, self._router, self._timing, self._command)
        self._supervisor.start()

    async def submit(self, request: GenerationRequest) -> Generation:
        """Admit a request; see ``Pool``."""
        return self._started().submit(request)

    async def check_grammar(self, grammar: Grammar) -> str | None:
        """Try a grammar out; see ``Pool``."""
        refusal, was_known = await self._checker.check(grammar)
        self._observer.on_grammar_check(grammar.kind, was_known=was_known, refused=refusal is not None)
        return refusal

    async def drain(self, timeout_seconds: float) -> None:
        """Finish what runs, within the limit; then end the workers. Idempotent."""
        if self._router is not None and self._supervisor is not None:
            await self._router.drain(timeout_seconds)
            await self._supervisor.stop()
        await self._checker.close()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that were spawned last, by slot."""
        slots = self._supervisor.slots if self._supervisor is not None else []
        return [slot.process.pid for slot in slots if slot.process is not None]

    @property
    def status(self) -> PoolStatus:
        """A snapshot; costs no system call. While something waits, only to be asked in the pool's event loop."""
        router = self._router
        ports = router.ports if router is not None else []
        hellos = [port.hello for port in ports if port.hello is not None]
        live = list(router.live.values()) if router is not None else []
        waiting_since = [choice.submitted_at for choice in live if choice.started_at is None]
        first = hellos[0] if hellos else None
        return PoolStatus(
            ready=any(port.send is not None and not port.is_lost for port in ports)
            and router is not None
            and not (router.draining or router.failed),
            draining=router is not None and router.draining,
            failed=router.failed if router is not None else None,
            num_workers=len(self._starts),
            isa=first.isa if first else "",
            kernels=first.kernels if first else "",
            kernel_times=tuple(first.kernel_times) if first else (),
            num_threads=sum(hello.num_threads for hello in hellos),
            max_model_len=min((hello.max_model_len for hello in hellos), default=0),
            num_running=len(live) - len(waiting_since),
            num_waiting=len(waiting_since),
            kv_used_bytes=sum(
                port.stats.num_used_blocks * port.hello.block_bytes for port in ports if port.stats and port.hello
            ),
            kv_capacity_bytes=sum(hello.num_blocks * hello.block_bytes for hello in hellos),
            kv_dtype=self._settings.kv_dtype,
            oldest_waiting_seconds=asyncio.get_running_loop().time() - min(waiting_since) if waiting_since else 0.0,
        )

    def _started(self) -> Router:
        if self._router is None:
            raise RuntimeError("the pool was not started")
        return self._router


def _bytes_of(model_path: Path) -> int:
    return model_path.stat().st_size
