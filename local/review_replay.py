"""Answer review tasks by replaying ratings that people once gave; nothing is made up."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from local.assets import RatedSentence, rating_label
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.text_keys import content_key, uniform_draw

WORKERS = 3
"""Label Studio's server gains nothing from more."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Annotations posted, tasks answered, and open tasks whose text nobody ever rated."""

    annotations: int
    tasks: int
    unrated: int


def replay_ratings(
    server: LabelStudioServer,
    project: ReviewProject,
    sentences: Sequence[RatedSentence],
    reviewers: int,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReplayResult:
    """Answer every open task once from each of ``reviewers`` accounts.

    Each account gives one of the ratings recorded for the sentence, each a different one; which, depends on the
    text alone. The ratings are anonymous, so an account stands for no particular person.
    ``report_progress`` gets the tasks answered so far, and how many there are.
    """
    accounts = server.ensure_reviewers(f"reviewer-{n}@example.com" for n in range(1, reviewers + 1))
    rated = {content_key(s.text): s for s in sentences}
    open_tasks = [(task_id, rated.get(content_key(text))) for task_id, text in project.open_tasks()]
    answerable = [(task_id, sentence) for task_id, sentence in open_tasks if sentence]
    done = 0

    def answer(task: tuple[int, RatedSentence]) -> None:
        nonlocal done
        task_id, sentence = task
        # In a fixed order within a task, because a tie goes to the answer recorded first.
        for account, rating in zip(accounts.values(), chosen_ratings(sentence, reviewers), strict=True):
            project.annotate(task_id, rating_label(rating), account)
        done += 1
        report_progress(done, len(answerable))

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(answer, answerable):
            pass
    return ReplayResult(
        annotations=len(answerable) * reviewers,
        tasks=len(answerable),
        unrated=len(open_tasks) - len(answerable),
    )


def chosen_ratings(sentence: RatedSentence, count: int) -> list[int]:
    """``count`` of the ratings recorded for this sentence, drawn without replacement by content hash."""
    key = content_key(sentence.text)
    order = sorted(range(len(sentence.ratings)), key=lambda index: uniform_draw(key, f"rating {index}"))
    return [sentence.ratings[index] for index in order[:count]]
