"""Cron lines: what the server understands, and what it would misread."""

from datetime import UTC, datetime

import pytest

from pipelines.cron import CronError, check_cron, next_times

NOW = datetime(2026, 11, 22, 4, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "times"),
    [
        ("0 0 2 * * *", ["2026-11-23T02:00", "2026-11-24T02:00"]),
        ("0 30 6 ? * MON-FRI", ["2026-11-23T06:30", "2026-11-24T06:30"]),
        ("0 0 */8 1,15 * *", ["2026-12-01T00:00", "2026-12-01T08:00"]),
        ("0 0/20 * * * ?", ["2026-11-22T04:20", "2026-11-22T04:40"]),
        ("@weekly", ["2026-11-29T00:00", "2026-12-06T00:00"]),
        ("@every 1h30m", ["2026-11-22T05:30", "2026-11-22T07:00"]),
    ],
)
def test_a_line_fires_when_the_server_would_start_a_run(line: str, times: list[str]) -> None:
    assert check_cron(f" {line}  ", NOW) == line
    assert [f"{time:%Y-%m-%dT%H:%M}" for time in next_times(line, NOW, 2)] == times


def test_a_five_field_line_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(CronError) as caught:
        check_cron("0 2 * * *", NOW)
    sentence = str(caught.value)
    assert '--cron "0 0 2 * * *"' in sentence
    assert "2026-11-23 02:00:00, 2026-11-24 02:00:00, 2026-11-25 02:00:00 UTC" in sentence


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "Expected six fields"),
        ("every night", "Expected six fields"),
        ("@reboot", "Expected six fields"),
        ("0 0 2 * *  * 2027", "Expected six fields"),
        ("0 0 25 * * *", "out of range"),
        ("0 25 99 * *", "out of range"),
        ("0 0 2 30 2 *", "no cron line that ever fires"),
        ("0 0 2 L * *", "got 'L'"),
        ("0 0 2 * * 5#2", "got '5#2'"),
        ("0 0 2 * * 7", "0 \\(Sunday\\) to 6"),
        ("0 0 2 * * 1-7", "0 \\(Sunday\\) to 6"),
        ("* * 2 * * *", "at most one run a minute"),
        ("@every 30s", "at most one run a minute"),
        ("@every soon", "Expected a time after @every"),
        ("@every 0s", "at least one second"),
    ],
)
def test_anything_else_is_a_sentence(line: str, reason: str) -> None:
    with pytest.raises(CronError, match=reason):
        check_cron(line, NOW)
