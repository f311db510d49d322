import os
import signal
import subprocess
import sys
import time
import types

import pytest

from jprune.cli import main as cli
from jprune.core.errors import InputError, Interrupted
from jprune.core.version import __version__


def command(run, define=lambda flags: None):
    return types.SimpleNamespace(__doc__="Does it.", define=define, run=run)


@pytest.fixture
def install(monkeypatch):
    """Puts a command of the test's own in place of `jprune score`."""

    def put(run):
        monkeypatch.setattr(cli, "_module", lambda name: command(run))

    return put


def raises(error):
    def run(flags):
        raise error

    return run


def test_help_lists_every_command(jprune):
    status, out, err = jprune("--help")
    assert status == 0 and err == ""
    for name, what in cli.COMMANDS.items():
        assert f"  {name} " in out and what in out
    assert jprune("-h") == jprune("help") == (0, out, "")
    assert jprune() == (2, out, "")


def test_help_of_a_command_has_its_flags_and_defaults(jprune):
    status, out, _ = jprune("score", "--help")
    assert status == 0
    assert out.startswith("Scores every block")
    assert "--window_length=N\n      tokens per window (default: 128)" in out
    assert jprune("help", "score")[1] == out
    assert "--strict\n" in jprune("export", "--help")[1]


def test_version(jprune):
    assert jprune("--version") == (0, f"jprune {__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["scor"], "unknown command 'scor'; did you mean 'score'?"),
        (["qqq"], "unknown command 'qqq'; one of run, search, score,"),
        (["--model=x", "score"], "--model=x comes before the command"),
        (["score", "--modle=x"], "unknown flag --modle of jprune score; did you mean --model?"),
        (["score", "--qqq"], "unknown flag --qqq of jprune score; see jprune score --help"),
        (["eval", "--protect=1"], "unknown flag --protect of jprune eval; did you mean --prot"),
        (["score", "--num_windows=ten"], "--num_windows takes an integer, not 'ten'"),
        (["score", "--power=x"], "--power takes a number, not 'x'"),
        (["score", "--num_windows=0"], "--num_windows=0: 0 is not a positive integer"),
        (["export", "--strict=maybe"], "--strict takes true or false, not 'maybe'"),
        (["score", "--model"], "Missing value for flag --model (see jprune score --help)"),
        (["score", "stray"], "unexpected argument 'stray'; flags are written --name=value"),
    ],
)
def test_bad_calls(refused, argv, message):
    assert message in refused(*argv)


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (InputError("two\n  lines"), 2, "jprune: error: two lines\n"),
        (Interrupted("saved"), 75, "jprune: saved\n"),
        (MemoryError(), 2, "jprune: error: out of memory: MemoryError; use fewer"),
        (
            KeyboardInterrupt(),
            1,
            "jprune: stopped from the keyboard; run the same command again to continue\n",
        ),
    ],
)
def test_exit_statuses(jprune, install, error, status, expected):
    install(raises(error))
    found, out, err = jprune("score")
    assert found == status and out == ""
    assert err.startswith(expected) and "Traceback" not in err


def test_device_out_of_memory(jprune, install):
    import jax

    install(raises(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory, 3GiB")))
    status, _, err = jprune("score")
    assert status == 2 and "Traceback" not in err
    assert "out of memory: RESOURCE_EXHAUSTED: Out of memory, 3GiB; use fewer" in err


def test_a_bug_shows_its_traceback(jprune, install):
    install(raises(ZeroDivisionError("bug")))
    status, _, err = jprune("score")
    assert status == 1
    assert "Traceback" in err and "ZeroDivisionError: bug" in err
    import jax

    install(raises(jax.errors.JaxRuntimeError("INTERNAL: other")))
    assert jprune("score")[0] == 1


def test_status_of_the_command_is_passed_on(jprune, install):
    install(lambda flags: 7)
    assert jprune("score")[0] == 7


def test_sigterm_gives_75_and_the_old_handler_is_back(jprune, install):
    def run(flags):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    install(run)
    status, _, err = jprune("score")
    assert status == 75 and "run the same command again" in err
    assert signal.getsignal(signal.SIGTERM) is before


def test_log_goes_to_stderr_once_per_call(jprune, install):
    import logging

    def run(flags):
        root = logging.StreamHandler()  # as libraries do
        logging.getLogger().addHandler(root)
        logging.getLogger("jprune").info("hello")
        logging.getLogger().removeHandler(root)
        return 0

    install(run)
    for _ in range(2):
        assert jprune("score") == (0, "", "jprune: hello\n")


def test_positional_arguments_and_the_call_as_written(install, jprune, monkeypatch):
    from jprune.cli import flag

    seen = {}

    def run(flags):
        seen.update(files=flags.files, line=flags.command_line, elapsed=flags.elapsed)
        return 0

    module = command(run, lambda flags: flag.texts(flags, "files", "what"))
    module.POSITIONAL = "files"
    monkeypatch.setattr(cli, "_module", lambda name: module)
    assert jprune("score", "a b", "--files=c", "d")[0] == 0
    assert seen["files"] == ["c", "a b", "d"]
    assert seen["line"] == "jprune score 'a b' --files=c d"
    assert 0 <= seen["elapsed"] < 60


def run_process(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "jprune", *argv], capture_output=True, text=True, **kwargs
    )


def test_as_a_process():
    done = run_process("--version")
    assert (done.returncode, done.stdout) == (0, f"jprune {__version__}\n")
    done = run_process("evl")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "jprune: error: unknown command 'evl'; did you mean 'eval'?\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from jprune.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'tensorflow', 'transformers', 'datasets', 'matplotlib', "
        "'optuna', 'orbax.checkpoint'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_reader_that_leaves_early():
    code = (
        "import sys; from jprune.cli import main as cli\n"
        "cli._overview = lambda: 'x\\n' * 100000\n"
        "sys.exit(cli.main(['--help']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
