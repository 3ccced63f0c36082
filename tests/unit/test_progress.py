"""Items come one by one, and a bar moves where there is a terminal for it."""

import pytest
from rich.console import Console

from cute_gemm.measure import progress


def test_where_no_line_can_move_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([1, 2, 3], "tuning")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        progress, "PlainConsole", lambda stderr: Console(stderr=stderr, force_terminal=True, width=80)
    )
    assert list(progress.track([1, 2, 3], "tuning")) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out == ""
    assert "tuning" in err
    assert "3/3" in err
