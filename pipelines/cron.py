"""Cron lines as Kubeflow Pipelines reads them: six fields, seconds first, in UTC; or ``@daily``, ``@every 6h``.

Its server takes five fields too, and reads the minute as the second: what was meant to run once a night runs once a
month or never. So they are refused here.
"""

import re
from datetime import UTC, datetime, timedelta

from croniter import CroniterError, croniter

from reviewloop.errors import ReviewLoopError

SHORTEST_INTERVAL = timedelta(minutes=1)
"""A line that fires more often has a ``*`` where its seconds should be."""

_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
# What github.com/robfig/cron v1, which the server parses with, knows; croniter knows more.
_VALUE = r"(?:\d+|[a-z]{3})"
_FIELD = re.compile(rf"^(?:\*|\?|{_VALUE}(?:-{_VALUE})?)(?:/\d+)?$", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m|s)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0}


class CronError(ReviewLoopError):
    """A cron line that Kubeflow Pipelines refuses, or would read otherwise than it was meant."""


def check_cron(line: str, now: datetime) -> str:
    """The line, with its spaces tidied.

    Raises:
        CronError: says what is wrong and, of a five-field line, which line was probably meant.
    """
    line = " ".join(line.split())
    fields = line.split(" ")
    if len(fields) == 5 and not line.startswith("@"):
        meant = f"0 {line}"
        check_cron(meant, now)
        times = ", ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in next_times(meant, now, 3))
        raise CronError(
            f"Expected six fields, seconds first, got five: {line!r}. Kubeflow Pipelines would read the minute as the "
            f'second. You probably mean --cron "{meant}", which runs next at {times} UTC.'
        )
    first, second = _upcoming(line, now, 2)
    if second - first < SHORTEST_INTERVAL:
        raise CronError(
            f"Expected at most one run a minute, got {line!r}, which starts one at {first:%H:%M:%S} and the next at "
            f"{second:%H:%M:%S}. Its first field is the second: 0 is the usual one."
        )
    return line


def next_times(line: str, now: datetime, count: int) -> list[datetime]:
    """When a line fires next, in UTC.

    Raises:
        CronError: it is not one.
    """
    return _upcoming(line, now, count)


def _upcoming(line: str, now: datetime, count: int) -> list[datetime]:
    now = now.astimezone(UTC).replace(microsecond=0)
    if line.startswith("@every "):
        interval = _duration(line)
        return [now + interval * number for number in range(1, count + 1)]
    fields = _DESCRIPTORS.get(line, line).split(" ")
    if len(fields) != 6:
        raise CronError(
            f'Expected six fields (second minute hour day month weekday), such as "0 0 2 * * *" for every night at '
            f"two, UTC, or @daily, or @every 6h; got {line!r}."
        )
    for field in fields:
        if not all(_FIELD.match(part) for part in field.split(",")):
            raise CronError(
                f"Expected numbers, names, *, ?, and lists, ranges and steps of them in a cron line, got {field!r} in "
                f"{line!r}."
            )
    if "7" in re.split(r"[-,/]", fields[5].partition("/")[0]):
        raise CronError(f"Expected a weekday from 0 (Sunday) to 6 or sun to sat, got {fields[5]!r} in {line!r}.")
    try:
        times = croniter(" ".join(fields).replace("?", "*"), now, second_at_beginning=True)
        return [times.get_next(datetime) for _ in range(count)]
    except CroniterError as error:
        raise CronError(f"{line!r} is no cron line that ever fires: {error}.") from None


def _duration(line: str) -> timedelta:
    text = line.removeprefix("@every ")
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise CronError(f"Expected a time after @every, such as 90m or 1h30m, got {line!r}.")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if seconds < 1:
        raise CronError(f"Expected at least one second after @every, got {line!r}.")
    return timedelta(seconds=seconds)
