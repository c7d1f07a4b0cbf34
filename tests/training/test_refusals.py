"""What a wrong command line of stream-training gets: one line on stderr that says where to look, exit code 2."""

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
