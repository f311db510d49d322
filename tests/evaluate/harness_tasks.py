"""lm-evaluation-harness's own task files, told to read local data instead of the hub's."""

import pathlib

SPLITS = ("train", "validation", "test")

# Where each task is described in lm-eval; the local boolq has `answer` where the hub's has `label`.
FILES = {
    "boolq": "super_glue/boolq/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "rte": "glue/rte/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
}


def task_file(folder: pathlib.Path, name: str, data: pathlib.Path, new_name: str = "") -> str:
    """A yaml file in `folder` that is lm-eval's task `name` on a file of rows."""
    import lm_eval.tasks

    original = pathlib.Path(lm_eval.tasks.__file__).parent / FILES[name]
    lines = [
        f"include: {original}",
        f"task: {new_name or name}",
        "tag: null",
        "dataset_path: json",
        "dataset_name: null",
        "dataset_kwargs:",
        "  data_files:",
        *(f"    {split}: {data}" for split in SPLITS),
    ]
    if name == "boolq":
        lines.append('doc_to_target: "{{answer | int}}"')
    file = folder / f"{new_name or name}.yaml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)
