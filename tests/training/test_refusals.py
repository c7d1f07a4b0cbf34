"""What a wrong command line of stream-training gets: one line on stderr that says where to look, exit code 2."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from training import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: Missing command; see stream-training --help"),
        (["ft"], "error: there is no command 'ft', perhaps 'fit'; see stream-training --help"),
        (["evalute", "model"], "error: there is no command 'evalute', perhaps 'evaluate'; see stream-training --help"),
        (["serve"], "error: there is no command 'serve', the commands are adapt, augment, calibrate"),
        (["data", "chek"], "error: there is no command 'chek', perhaps 'check'; see stream-training data --help"),
        (["fit"], "error: Missing argument 'DATA'; see stream-training fit --help"),
        (["evaluate", "model", "no-such.csv"], "error: no-such.csv: there is no such file or folder; check the path"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["stream-training", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


@pytest.mark.parametrize("command", [["data", "check", "rows.csv"], ["fit", "rows.csv", "--out=out"]])
def test_without_the_extra_a_line_names_it(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n" * 20, "utf-8")
    hide = "import sys\nfor name in ('accelerate', 'datasets', 'matplotlib', 'pyarrow', 'scipy', 'sklearn', 'tqdm'):\n"
    hide += "    sys.modules[name] = None\n"
    code = f"{hide}from training.cli import main\nsys.argv = ['stream-training', *{command!r}]\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(r"error: \w+ is not installed; pip install 'stream-classifier\[training\]'", done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]
