"""Answer review tasks in place of people: by ratings people once gave, or by the truth with a stated error rate."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from local.assets import RatedSentence, rating_label
from local.entity_texts import EntityText, answer_with_errors
from reviewloop.label_studio import LabelStudioServer, ReviewProject
from reviewloop.records import Label
from reviewloop.text_keys import content_key, uniform_draw

WORKERS = 3
"""Label Studio's server gains nothing from more."""

AnswersOf = Callable[[str], Sequence[Label] | None]
"""The answers to a text, one a reviewer in the order they are recorded; None if nobody knows it."""


@dataclass(frozen=True, slots=True)
class ReviewResult:
    """Annotations posted, tasks answered, and open tasks whose text no answer was known to."""

    annotations: int
    tasks: int
    unknown: int


def answer_open_tasks(
    server: LabelStudioServer,
    project: ReviewProject,
    answers_of: AnswersOf,
    reviewers: int,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReviewResult:
    """Answer every open task once from each of ``reviewers`` accounts.

    ``report_progress`` gets the tasks answered so far, and how many there are.
    """
    accounts = server.ensure_reviewers(f"reviewer-{n}@example.com" for n in range(1, reviewers + 1))
    open_tasks = [(task_id, text, answers_of(text)) for task_id, text in project.open_tasks()]
    answerable = [(task_id, text, answers) for task_id, text, answers in open_tasks if answers is not None]
    done = 0

    def answer(task: tuple[int, str, Sequence[Label]]) -> None:
        nonlocal done
        task_id, text, answers = task
        # In a fixed order within a task, because a tie goes to the answer recorded first.
        for account, label in zip(accounts.values(), answers, strict=True):
            project.annotate(task_id, text, label, account)
        done += 1
        report_progress(done, len(answerable))

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(answer, answerable):
            pass
    return ReviewResult(
        annotations=len(answerable) * reviewers,
        tasks=len(answerable),
        unknown=len(open_tasks) - len(answerable),
    )


def replayed_ratings(sentences: Sequence[RatedSentence], reviewers: int) -> AnswersOf:
    """Ratings that people once gave to the sentence, a different one for each reviewer; nothing is made up.

    Which, depends on the text alone. The ratings are anonymous, so an account stands for no particular person.
    """
    rated = {content_key(s.text): s for s in sentences}

    def answers_of(text: str) -> list[Label] | None:
        sentence = rated.get(content_key(text))
        return [rating_label(rating) for rating in chosen_ratings(sentence, reviewers)] if sentence else None

    return answers_of


def chosen_ratings(sentence: RatedSentence, count: int) -> list[int]:
    """``count`` of the ratings recorded for this sentence, drawn without replacement by content hash."""
    key = content_key(sentence.text)
    order = sorted(range(len(sentence.ratings)), key=lambda index: uniform_draw(key, f"rating {index}"))
    return [sentence.ratings[index] for index in order[:count]]


def erring_reviewers(texts: Sequence[EntityText], reviewers: int, error_rate: float) -> AnswersOf:
    """The true entities of generated texts, where each reviewer errs at ``error_rate`` of the texts."""
    truths = {content_key(t.text): t for t in texts}

    def answers_of(text: str) -> list[Label] | None:
        truth = truths.get(content_key(text))
        return [answer_with_errors(truth, n, error_rate) for n in range(reviewers)] if truth else None

    return answers_of
