"""KFP component: measure the challenger against the champion and decide."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    loop_name: str,
    registry_uri: str,
    base_model: str,
    task_type: str,
    labels: list,
    promotion: dict,
    base_test_set: str,
    probes: list,
    seed: int,
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> str:
    """Measure challenger and champion on every test set; promote or refuse, with a report."""
    from pathlib import Path

    from components.evaluate.evaluation import evaluate_model, write_evaluation
    from components.evaluate.report import render_html, render_markdown
    from reviewloop.spec import PromotionSpec
    from reviewloop.task_types import TASK_TYPES

    rule = PromotionSpec.model_validate(promotion)
    result = evaluate_model(
        dataset=Path(dataset.path),
        model=Path(model.path),
        loop_name=loop_name,
        registry_uri=registry_uri,
        base_model=base_model,
        task=TASK_TYPES[task_type](tuple(labels)),
        promotion=rule,
        primary=rule.test_set or base_test_set,
        probes=tuple(probes),
        seed=seed,
    )
    write_evaluation(result, Path(evaluation.path))
    Path(report.path).write_text(render_html(result.document), encoding="utf-8")
    Path(summary.path).write_text(render_markdown(result.document), encoding="utf-8")
    for name, value in result.scalars().items():
        metrics.log_metric(name, value)
    if result.primary.confusion:
        classification.log_confusion_matrix(result.primary.confusion.names, result.primary.confusion.counts)
    if result.roc:
        classification.log_roc_curve(*result.roc)
    for reason in result.document["reasons"]:
        print(f"{result.verdict}: {reason}")
    return result.verdict
