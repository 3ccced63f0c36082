"""The fuzzers of the cache, for some seconds."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))
import cache_entries
import cache_races
import campaign

from cute_gemm.runtime import cache


def test_no_entry_of_somebody_else_is_taken() -> None:
    campaign.run(cache_entries.case, seed=0, count=60)


def test_a_judge_that_sees_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.KernelStore, "_objection", lambda *arguments: "")
    with pytest.raises(AssertionError, match="a stranger's code would be run"):
        campaign.run(cache_entries.case, seed=0, count=60)


def test_nothing_is_lost_in_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_races, "PROCESSES", 4)
    monkeypatch.setattr(cache_races, "KILLS", 6)
    campaign.run(cache_races.case, seed=0, count=1)


def test_a_case_that_fails_names_its_seed() -> None:
    def case(draw: object) -> None:
        raise ValueError("wrong")

    with pytest.raises(AssertionError, match="case 0 of seed 7 failed: wrong"):
        campaign.run(case, seed=7, count=3)


def test_a_campaign_says_how_to_repeat_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def case(draw) -> None:
        seen.append(draw.random())
        assert len(seen) != 2, "the second"

    assert campaign.main(case, ["--seed", "3", "--count", "4"]) == 1
    out = capsys.readouterr().out
    assert "case 1 failed" in out
    assert "--seed 3 --only 1" in out
    assert re.search(r"4 cases in \d+ s, 1 failed, seed 3", out)
    assert campaign.main(case, ["--seed", "3", "--only", "1"]) == 0
    assert seen[-1] == seen[1]
