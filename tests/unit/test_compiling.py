"""The engine's entries in the cache folder, compiled here or by another process."""

import pytest

from forerun.sim.core import compile as compiler
from forerun.sim.core.jit import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="nothing is compiled with FORERUN_JIT=0")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FORERUN_CACHE_DIR", str(tmp_path))


def test_another_process_compiles_into_the_cache_folder():
    assert not compiler._is_kept("look")
    with compiler._compiled_beside("look"):
        pass
    assert compiler._is_kept("look")
    assert not compiler._is_kept("advance")
    assert not compiler.is_cached()


def test_one_that_fails_is_quiet(capfd):
    with compiler._compiled_beside("nothing of this name"):
        pass
    assert capfd.readouterr() == ("", "")


def test_without_a_process_it_goes_on(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError

    monkeypatch.setattr(compiler.subprocess, "Popen", refuse)
    reached = False
    with compiler._compiled_beside("look"):
        reached = True
    assert reached
    assert not compiler._is_kept("look")


def test_an_interrupt_ends_the_other_process(monkeypatch):
    begun = []
    start = compiler.subprocess.Popen
    monkeypatch.setattr(
        compiler.subprocess, "Popen", lambda *a, **k: begun.append(start(*a, **k)) or begun[0]
    )
    with pytest.raises(KeyboardInterrupt), compiler._compiled_beside("form"):
        raise KeyboardInterrupt
    assert begun[0].returncode not in (None, 0)
