"""KFP component: merge base data and annotations into a dataset."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def data_merge(
    data: dict,
    task_type: str,
    labels: list,
    label_studio_url: str,
    label_studio_project: str,
    registry_uri: str,
    min_new_annotations: int,
    dataset: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Metrics],
) -> bool:
    """Read base data and annotations, split by content hash, and return whether training is due."""
    from pathlib import Path

    from components.data_merge.merge import merge_data
    from reviewloop.spec import DataSpec

    result = merge_data(
        data=DataSpec.model_validate(data),
        task_name=task_type,
        labels=tuple(labels),
        label_studio_url=label_studio_url,
        project_title=label_studio_project,
        registry_uri=registry_uri,
        min_new_annotations=min_new_annotations,
        output=Path(dataset.path),
    )
    for name, value in result.summary["reviews"].items():
        if isinstance(value, int | float):
            summary.log_metric(f"reviews_{name}", value)
    for split, size in result.summary["sizes"].items():
        summary.log_metric(f"examples_{split.replace(' ', '_')}", size)
    for kind, found in result.summary["problems"].items():
        print(f"Left out: {found['count']} x {kind} ({', '.join(found['where'])})")
    print(result.message)
    return result.train
