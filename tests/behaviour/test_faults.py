"""Faults in Flash itself: the caller hears of them, and waits for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from behaviour.programs import Programs

pytestmark = pytest.mark.embedded  # the programs break the plane that is in their own process


@pytest.mark.parametrize(
    "method", ["Reconciler.add", "Reconciler.reconcile", "Reconciler.exited", "Starter._started"]
)
def test_a_fault_in_the_plane_fails_the_jobs_that_wait(programs: Programs, method: str) -> None:
    done = programs.run(
        f"""
        from runpod_flash.errors import FlashError
        from runpod_flash.plane.reconciler import Reconciler
        from runpod_flash.plane.starter import Starter

        def fault(self, *args):
            raise LookupError("a fault")

        @Endpoint(name="dies", cpu=CPU)
        def dies():
            os._exit(3)

        if __name__ == "__main__":
            {method} = fault
            try:
                dies.call()
            except FlashError as error:
                print(json.dumps([str(error), error.remote_traceback]))
        """,
        timeout=30,
    )
    message, text = done.result
    said = "an internal error in Flash's plane: LookupError('a fault'); please report it"
    if method == "Starter._started":  # another worker may do better
        said = f"no worker of 'dies' can start: 3 in a row failed, the last one met {said}"
    assert message == said, done
    assert "in fault" in text or method == "Starter._started", done


def test_a_fault_that_costs_a_worker_does_not_hang_either(programs: Programs) -> None:
    done = programs.run(
        """
        from runpod_flash.errors import FlashError
        from runpod_flash.plane.reconciler import Reconciler

        def fault(self, *args):
            raise LookupError("a fault")

        @Endpoint(name="lives", cpu=CPU)
        async def lives():
            return 1

        if __name__ == "__main__":
            Reconciler.ready = fault
            try:
                lives.call()
            except FlashError as error:
                print(json.dumps(type(error).__name__))
        """,
        timeout=30,
    )
    assert done.result == "WorkerStartError", done
    assert "LookupError: a fault" in done.stderr, done


def test_a_fault_after_the_result_came_does_not_keep_it_from_the_caller(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        from runpod_flash.plane.dispatcher import Dispatcher

        def fault(self, *args):
            raise LookupError("a fault")

        @Endpoint(name="lives", cpu=CPU)
        async def lives():
            return 1

        if __name__ == "__main__":
            Dispatcher._settle = fault
            print(json.dumps(lives.call()))
        """,
        timeout=30,
    )
    assert done.result == 1, done


def test_a_job_that_the_plane_refuses_leaves_nothing(programs: Programs) -> None:
    done = programs.run(
        """
        from runpod_flash.client.embedded import embedded_backend
        from runpod_flash.errors import ConnectionClosedError

        @Endpoint(name="never", cpu=CPU)
        def never():
            pass

        if __name__ == "__main__":
            plane = embedded_backend().plane
            plane.dispatcher.close()
            try:
                never.call()
            except ConnectionClosedError:
                print(len(plane.events._by_job))
        """
    )
    assert done.result == 0, done
