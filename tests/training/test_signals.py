"""What signals ask for, and what they mean afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from sharelora.support.errors import Stopped, run_main
from sharelora.trainer.signals import ending, listening

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def test_requests_are_noted_and_handlers_put_back() -> None:
    before = [signal.getsignal(number) for number in HEARD]
    with listening() as requests:
        signal.raise_signal(signal.SIGUSR1)
        assert requests.save and not requests.stop
        signal.raise_signal(signal.SIGTERM)
        assert requests.stop == signal.SIGTERM
    assert [signal.getsignal(number) for number in HEARD] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_can_be_interrupted_is(number: int, code: int) -> None:
    with listening() as requests:
        with pytest.raises(Stopped) as stop, requests.interruptible():
            signal.raise_signal(number)
        assert stop.value.code == code
        # A request that came before: the block is not even begun.
        with pytest.raises(Stopped), requests.interruptible():
            pytest.fail("begun")


def test_a_second_signal_ends_the_process() -> None:
    child = os.fork()
    if child == 0:
        with listening():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_what_a_launcher_passes_on_again_is_the_same_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    child = os.fork()
    if child == 0:
        with listening() as requests:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            os._exit(10 if requests.stop == signal.SIGTERM else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def test_where_nothing_is_trained_the_exit_code_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with ending():
            signal.raise_signal(signal.SIGUSR1)  # would end a process that does not know it
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as end:
        run_main(work)
    assert end.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; nothing is lost: start the same command again\n"


def test_other_threads_change_no_handler() -> None:
    """Python allows it in the main thread alone."""
    found: list[object] = []

    def work() -> None:
        with listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
