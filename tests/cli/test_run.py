"""``tokenmeter run``: programs as they are, in processes of their own, against a real server."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tokenmeter.cli import main
from tokenmeter.cli import run as run_command
from tokenmeter.clients.instruments import HTTP_LIBRARIES
from tokenmeter.testing import ScriptedProvider

BIN = Path(sys.executable).parent
START = Path(run_command.__file__).parent / "at_start" / "sitecustomize.py"
ASKS = """
import sys
import httpx

def ask(times=1):
    for _ in range(times):
        body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}
        try:
            print(httpx.post(sys.argv[1] + "/chat/completions", json=body).status_code, flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.py").write_text(ASKS)
    return tmp_path


def run(here: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokenmeter.cli", "run", *arguments],
        cwd=here,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def program(here: Path, text: str, name: str = "program.py") -> str:
    (here / name).write_text(textwrap.dedent(text))
    return name


def cells(text: str, first: str) -> list[str]:
    """The row of the summary that begins with this cell."""
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first])


def test_a_program_is_metered_as_it_is(here: Path, provider: ScriptedProvider) -> None:
    name = program(here, "import asks; asks.ask(3)")
    done = run(here, "--agent", "triage", "--user", "alice", "python", name, provider.openai_url)
    assert (done.returncode, done.stdout.split()) == (0, ["200"] * 3)
    billed = provider.billed
    assert cells(done.stderr, "triage")[:6] == [
        "triage", "alice", "-", "gpt-5-mini", "3", str(billed.input_tokens),
    ]  # fmt: skip


def test_a_budget_holds_for_all_of_its_processes(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import multiprocessing, subprocess, sys, threading
        import asks

        if __name__ == "__main__":
            if sys.argv[2:] != ["child"]:
                asks.ask(2)
                subprocess.run([sys.executable, __file__, sys.argv[1], "child"], check=True)
                spawned = multiprocessing.get_context("spawn").Process(target=asks.ask, args=(2,))
                spawned.start()
                spawned.join()
                thread = threading.Thread(target=asks.ask, args=(2,))
                thread.start()
                thread.join()
            else:
                asks.ask(2)
        """,
    )
    done = run(here, "--budget", "5 calls", "--agent", "a", name, provider.openai_url)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["200"] * 5 + ["BudgetExceeded"] * 3
    assert provider.received == 5
    assert cells(done.stderr, "a")[4] == "5"
    assert cells(done.stderr, "a")[-1] == "3"


def test_the_budgets_of_the_file_hold_too(here: Path, provider: ScriptedProvider) -> None:
    (here / "tokenmeter.toml").write_text('[[budgets]]\nlimit = "2 calls"\n')
    name = program(here, "import asks; asks.ask(3)")
    assert run(here, name, provider.openai_url).stdout.split() == ["200", "200", "BudgetExceeded"]
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.split() == ["200", "BudgetExceeded", "BudgetExceeded"]


def test_a_store_that_lasts_goes_on(here: Path, provider: ScriptedProvider) -> None:
    books = here / "books.db"
    (here / "tokenmeter.toml").write_text(
        f'[store]\nurl = "sqlite:///{books}"\n[[budgets]]\nlimit = "3 calls"\nper = "month"\n'
    )
    name = program(here, "import asks; asks.ask(2)")
    said = [run(here, name, provider.openai_url).stdout.split() for _ in range(2)]
    assert said == [["200", "200"], ["200", "BudgetExceeded"]]


def test_a_store_that_is_given_is_one_in_whatever_directory_a_process_starts(
    here: Path, provider: ScriptedProvider
) -> None:
    (here / "tokenmeter.toml").write_text('[[budgets]]\nlimit = "1 calls"\nper = "month"\n')
    (here / "sub").mkdir()
    program(here, "import asks; asks.ask()")
    twice = "python program.py $0; cd sub; python ../program.py $0"
    done = run(here, "--store", "sqlite:///books.db?leases=off", "sh", "-c", twice, provider.openai_url)
    assert done.stdout.split() == ["200", "BudgetExceeded"]
    assert (here / "books.db").exists()


def test_whatever_signs_the_temporary_folder_has_in_its_name(here: Path, provider: ScriptedProvider) -> None:
    odd = here / "what?#%20is"
    odd.mkdir()
    name = program(here, "import asks; asks.ask(2)")
    done = run(here, "--budget", "1 calls", name, provider.openai_url, TMPDIR=str(odd))
    assert done.stdout.split() == ["200", "BudgetExceeded"]
    assert list(odd.iterdir()) == []


def test_where_nothing_is_told_no_rows_are_kept(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here, "import asks, glob, os; asks.ask(); print(os.listdir(glob.glob(os.environ['TMPDIR'] + '/*')[0]))"
    )
    for quiet in (True, False):
        folder = here / f"quiet-{quiet}"
        folder.mkdir()
        done = run(here, *["--quiet"][:quiet], name, provider.openai_url, TMPDIR=str(folder))
        assert ("calls.jsonl" in done.stdout) is not quiet


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.exit(7)", 7),
        ("raise SystemExit(0)", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
    ],
)
def test_the_status_is_the_programs(here: Path, text: str, status: int) -> None:
    done = run(here, "python", program(here, text))
    assert done.returncode == status
    assert done.stderr.endswith("tokenmeter run: no model call was seen\n")
    assert run(here, "--quiet", "python", program(here, text)).stderr == ""


def test_signals_are_passed_on(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import signal, sys, asks

        def end(*_):
            asks.ask()
            sys.exit(5)

        signal.signal(signal.SIGTERM, end)
        print("ready", flush=True)
        signal.pause()
        """,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenmeter.cli", "run", "--agent", "a", name, provider.openai_url],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "200\n")
    assert cells(err, "a")[4] == "1"


COUNTS_INTERRUPTS = """
import signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
print("ready", flush=True)
until = time.monotonic() + 30
while not seen and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)  # for another one
print(len(seen), flush=True)
"""


def test_an_interrupt_of_the_command_alone_is_passed_on(here: Path) -> None:
    """As a supervisor sends it, which runs the command without a terminal."""
    command = [sys.executable, "-m", "tokenmeter.cli", "run", "--quiet", program(here, COUNTS_INTERRUPTS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert told.readline() == "1\n"
    assert process.wait(60) == 0


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="there are no terminals here")
def test_an_interrupt_that_is_typed_comes_once(here: Path) -> None:
    try:
        master, slave = os.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal: {error}")
    command = [sys.executable, "-m", "tokenmeter.cli", "run", "--quiet", program(here, COUNTS_INTERRUPTS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: _log_in(slave))
    os.close(slave)
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline() == "ready\n"
        os.write(master, b"\x03")
        assert told.readline() == "1\n"
    assert process.wait(60) == 0
    os.close(master)


def _log_in(slave: int) -> None:
    out = os.dup(1)
    os.login_tty(slave)
    os.dup2(out, 1)


def test_a_signal_that_comes_while_the_program_is_started_is_passed_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def started(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", started)
    assert main(["run", "sleep", "20"]) == 128 + signal.SIGTERM


def test_a_signal_that_is_ignored_is_ignored_by_the_program_too(here: Path) -> None:
    name = program(here, "import signal; print(signal.getsignal(signal.SIGHUP).name)")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert run(here, name).stdout == "SIG_IGN\n"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_killed_process_spent_is_told(here: Path, provider: ScriptedProvider) -> None:
    name = program(here, "import asks, os; asks.ask(2); os.kill(os.getpid(), 9)")
    done = run(here, "--agent", "a", name, provider.openai_url)
    assert done.returncode == 128 + 9
    assert cells(done.stderr, "a")[4] == "2"


def test_the_programs_own_customization_is_imported(here: Path) -> None:
    theirs = here / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import sys; sys.customized = True")
    name = program(here, "import sitecustomize, sys; print(sys.customized, sitecustomize.__file__, *sys.path)")
    path = os.pathsep.join([str(theirs), os.environ.get("PYTHONPATH", "")])
    said = run(here, "--quiet", name, PYTHONPATH=path).stdout
    assert said.startswith(f"True {theirs / 'sitecustomize.py'} ")
    assert "at_start" not in said


def test_a_customization_of_its_own_that_fails_leaves_the_budget(here: Path, provider: ScriptedProvider) -> None:
    theirs = here / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("raise ValueError('theirs')")
    name = program(here, "import asks; asks.ask(2)")
    path = os.pathsep.join([str(theirs), os.environ.get("PYTHONPATH", "")])
    done = run(here, "--budget", "1 calls", name, provider.openai_url, PYTHONPATH=path)
    assert done.stdout.split() == ["200", "BudgetExceeded"]
    assert "ValueError: theirs" in done.stderr


def test_a_process_that_is_told_nothing_starts_as_it_is(here: Path) -> None:
    name = program(here, "import tokenmeter; print('went on')")
    done = run(here, "sh", "-c", f"TOKENMETER_RUN= python {name}")
    assert done.stdout == "went on\n"
    assert "NOT METERED" in done.stderr


def test_a_python_without_tokenmeter_says_so_and_goes_on(here: Path) -> None:
    name = program(here, "print('went on')")
    done = run(here, "--quiet", "python", "-S", "-c", f"import sitecustomize, runpy; runpy.run_path({name!r})")
    assert done.stdout == "went on\n"
    assert "NOT METERED: tokenmeter is not installed for" in done.stderr


def test_a_process_is_left_alone_until_it_imports_what_sends(here: Path, provider: ScriptedProvider) -> None:
    """gevent has to patch what it patches before that is imported; and most processes never send anything."""
    name = program(
        here,
        """
        import sys
        before = [name for name in ("tokenmeter", "wrapt", "opentelemetry", "asyncio", "ssl") if name in sys.modules]
        print(before, "tokenmeter" in sys.modules)
        import asks
        print("tokenmeter" in sys.modules)
        asks.ask(2)
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.splitlines() == ["[] False", "True", "200", "BudgetExceeded"]
    assert "no model call was seen" in run(here, program(here, "print('sends nothing')")).stderr


def test_a_scope_that_is_entered_before_anything_sends_is_within_the_one_of_the_run(
    here: Path, provider: ScriptedProvider
) -> None:
    name = program(
        here,
        """
        import threading, tokenmeter
        with tokenmeter.Meter().agent("inner"):
            import asks
            asks.ask()
        thread = threading.Thread(target=asks.ask)
        thread.start()
        thread.join()
        """,
    )
    done = run(here, "--agent", "outer", "--user", "u", name, provider.openai_url)
    assert cells(done.stderr, "inner")[:2] == ["inner", "u"]
    assert cells(done.stderr, "outer")[:2] == ["outer", "u"]


def test_threads_that_import_what_sends_at_once(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import sys, threading
        start = threading.Barrier(3)
        url = sys.argv[1] + "/chat/completions"
        ask = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}

        def send(library):
            start.wait()
            try:
                module = __import__(library)
                told = module.post(url, json=ask).status_code
            except Exception as error:
                told = type(error).__name__
            sys.stdout.write(f"{told}\\n")

        threads = [threading.Thread(target=send, args=(name,)) for name in ("httpx", "httpx2", "requests")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert sorted(done.stdout.split()) == ["200", "BudgetExceeded", "BudgetExceeded"], done.stderr
    assert provider.received == 1


def test_nothing_that_others_need_is_held_while_it_begins(here: Path, provider: ScriptedProvider) -> None:
    """Neither threads that import nor forks wait for it."""
    name = program(
        here,
        """
        import os, sys, threading, time
        url = sys.argv[1] + "/chat/completions"
        ask = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}

        def late():
            while "tokenmeter.meter" not in sys.modules:
                time.sleep(0.001)
            time.sleep(0.02)
            import requests
            sys.stdout.write(f"{requests.post(url, json=ask).status_code}\\n")

        def forks():
            while "tokenmeter.meter" not in sys.modules:
                time.sleep(0.001)
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)

        threads = [threading.Thread(target=late), threading.Thread(target=forks)]
        for thread in threads:
            thread.start()
        import tokenmeter
        for thread in threads:
            thread.join()
        """,
    )
    done = run(here, "--agent", "a", name, provider.openai_url)
    assert done.stdout.split() == ["200"], done.stderr
    assert cells(done.stderr, "a")[4] == "1"


def test_a_thread_that_outlives_the_main_one_imports_what_sends(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import threading

        def late():
            threading.main_thread().join()
            import asks
            asks.ask(2)

        threading.Thread(target=late).start()
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.split() == ["200", "BudgetExceeded"], done.stderr


@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "signal.raise_signal(signal.SIGALRM)"])
def test_what_is_interrupted_as_it_begins_begins_again(here: Path, provider: ScriptedProvider, how: str) -> None:
    name = program(
        here,
        f"""
        import signal, sys

        def too_long(*_):
            raise TimeoutError

        signal.signal(signal.SIGALRM, too_long)

        class Interrupts:
            def find_spec(self, name, path=None, target=None):
                if name == "tokenmeter.meter":
                    sys.meta_path.remove(self)
                    {how}

        sys.meta_path.insert(1, Interrupts())
        try:
            import httpx
        except (KeyboardInterrupt, TimeoutError):
            print("interrupted", flush=True)
        import asks
        asks.ask(2)
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.split() == ["interrupted", "200", "BudgetExceeded"], done.stderr


def test_a_child_that_is_forked_while_a_thread_begins_begins_itself(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import os, sys
        sys.meta_path[0]._orders.clear()  # as if a thread were at it
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        import asks
        asks.ask(2)
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.split() == ["200", "BudgetExceeded"], done.stderr


def test_a_scope_that_is_entered_as_it_begins_is_not_everywhere(here: Path, provider: ScriptedProvider) -> None:
    name = program(
        here,
        """
        import sys
        first = sys.meta_path.pop(0)
        import tokenmeter
        sys.meta_path.insert(0, first)
        with tokenmeter.Meter().agent("inner", user="alice"):
            import asks
            asks.ask()
        asks.ask()
        """,
    )
    done = run(here, "--agent", "outer", name, provider.openai_url)
    assert cells(done.stderr, "inner")[:2] == ["inner", "alice"]
    assert cells(done.stderr, "outer")[:2] == ["outer", "-"]


def test_a_loader_that_is_one_for_many_modules_is_left_alone(here: Path, provider: ScriptedProvider) -> None:
    """As those of frozen modules are."""
    name = program(
        here,
        """
        import sys
        from importlib.machinery import ModuleSpec, PathFinder

        class Loads:
            @staticmethod
            def create_module(spec):
                return None

            @staticmethod
            def exec_module(module):
                PathFinder.find_spec(module.__name__).loader.exec_module(module)

        class Finds:
            def find_spec(self, name, path=None, target=None):
                if name == "httpx":
                    real = PathFinder.find_spec(name)
                    found = ModuleSpec(name, Loads, origin=real.origin, is_package=True)
                    found.submodule_search_locations = real.submodule_search_locations
                    return found

        plain = Loads.__dict__["exec_module"]
        sys.meta_path.insert(1, Finds())
        import asks
        print(Loads.__dict__["exec_module"] is plain)
        asks.ask(2)
        """,
    )
    done = run(here, "--budget", "1 calls", name, provider.openai_url)
    assert done.stdout.split() == ["True", "200", "BudgetExceeded"], done.stderr


def test_greenlets_in_place_of_threads(here: Path, provider: ScriptedProvider) -> None:
    pytest.importorskip("gevent")
    name = program(
        here,
        """
        from gevent import monkey
        monkey.patch_all()
        import gevent, httpx, sys
        url = sys.argv[1] + "/chat/completions"
        ask = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}
        found = []

        def send():
            try:
                found.append(str(client.post(url, json=ask).status_code))
            except Exception as error:
                found.append(type(error).__name__)

        with httpx.Client() as client:
            gevent.joinall([gevent.spawn(send) for _ in range(20)], raise_error=True)
        print(*sorted(found))
        """,
    )
    done = run(here, "--budget", "5 calls", name, provider.openai_url)
    assert done.stdout.split() == ["200"] * 5 + ["BudgetExceeded"] * 15, done.stderr
    assert provider.received == 5


def test_what_it_is_told_makes_no_sense(here: Path) -> None:
    done = run(here, "sh", "-c", f"TOKENMETER_RUN=[ python {program(here, 'print(1)')}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the program was ended, because it can't be metered" in done.stderr


@pytest.mark.parametrize("program", [["sh", "-c", ":"], ["python", "-I", "-c", "pass"]])
def test_where_no_python_looks_for_it_that_is_told(here: Path, program: list[str]) -> None:
    done = run(here, *program)
    assert done.returncode == 0
    assert "NOT METERED: no Python process" in done.stderr


def test_without_its_store_it_is_not_started(here: Path) -> None:
    done = run(here, "--store", "mysql://127.0.0.1/0", program(here, "print('went on')"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "'mysql://' is unknown" in done.stderr


def test_a_program_that_is_metered_already(here: Path, provider: ScriptedProvider) -> None:
    """Its own meter counts in its own books, and its agents are named in both."""
    name = program(
        here,
        """
        import asks, tokenmeter
        with tokenmeter.Meter() as meter:
            meter.instrument()
            with meter.agent("inner"):
                asks.ask()
            print(meter.spend(agent="inner").calls)
        """,
    )
    done = run(here, "--agent", "outer", "--user", "u", name, provider.openai_url)
    assert done.stdout.split() == ["200", "1"]
    assert cells(done.stderr, "inner")[:2] == ["inner", "u"]
    assert provider.received == 1


def test_one_below_another_is_held_to_both(here: Path, provider: ScriptedProvider) -> None:
    name = program(here, "import asks; asks.ask(3)")
    inner = ["tokenmeter", "run", "--budget", "2 calls", "--agent", "inner", name, provider.openai_url]
    done = run(here, "--budget", "1 calls", "--user", "u", *inner)
    assert done.stdout.split() == ["200", "BudgetExceeded", "BudgetExceeded"]
    assert [line.split()[:2] for line in done.stderr.splitlines() if line.startswith("inner")] == [["inner", "u"]] * 2
    assert provider.received == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "no program is given"),
        (["--"], 2, "no program is given"),
        (["--budget", "much", "python"], 2, "'much'"),
        (["--agent", "", "python"], 2, "agent name is ''"),
        (["--store", "sqlite:///x.db", "--budget", "$1", "python"], 2, "--budget '$1' is for this run"),
        (["/usr/bin/opentelemetry-instrument", "python"], 2, "opentelemetry-instrument tokenmeter run"),
        (["no-such-program-here"], 127, "'no-such-program-here'"),
        (["./asks.txt"], 126, "'./asks.txt' can't be run"),
        (["./asks.py/none"], 126, "'./asks.py/none' can't be run"),
        (["./no-format"], 126, "'./no-format' can't be run"),
        (["--agent", "\udcff", "python"], 2, "is no UTF-8"),
        (["--config", "none.toml", "python"], 2, "none.toml"),
    ],
)
def test_what_is_wrong_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    (here / "asks.txt").write_text("no program")
    (here / "no-format").write_text("no program")
    (here / "no-format").chmod(0o755)
    assert main(["run", *arguments]) == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_whatever_can_be_metered_begins_it() -> None:
    """The program at the start of each Python can't import the list of what is metered: it has one of its own."""
    source = ast.parse(START.read_text())
    [senders] = [
        ast.literal_eval(node.value.args[0])
        for node in source.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and "_SENDERS" in ast.dump(node.targets[0])
    ]
    for name in HTTP_LIBRARIES:
        assert any(name == sender or name.startswith(f"{sender}.") for sender in senders), name
    for sender in senders:
        assert any(name == sender or name.startswith(f"{sender}.") for name in HTTP_LIBRARIES), sender
