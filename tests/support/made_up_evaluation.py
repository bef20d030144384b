"""An evaluation with made-up numbers, in the shape of eval.json, for tests and pictures of its report.

`python tests/support/made_up_evaluation.py OUT` writes it, its report and a comparison of checkpoints into OUT.
"""

import hashlib
import json
import math
import random
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from nemotron4_eval.report.comparison import write_comparison
from nemotron4_eval.report.write import write_report
from nemotron4_eval.suites.cells import table_rows
from nemotron4_eval.suites.paper import load_paper
from nemotron4_eval.suites.suite import Benchmark, Cell, TaskSpec

ITEMS = {3: 1_800, 4: 14_042, 5: 400, 6: 160, 7: 500, 8: 560, 9: 250, 10: 1_012, 11: 3_000}
MODES = {
    4: ("chain of thought", "direct", ""),
    5: ("strict", "flexible", ""),
    7: ("0-shot", "4-shot"),
    9: ("English CoT",),
    11: ("", "means over subjects", "means over questions"),
}
"""Of cells; those of the mode "" stand in every row of their table."""
COLUMNS = {
    (4, "chain of thought"): ("BBH",),
    (4, "direct"): ("BBH",),
    (4, ""): ("MMLU",),
    (5, "strict"): ("GSM8K",),
    (5, "flexible"): ("GSM8K",),
    (5, ""): ("HumanEval", "MBPP"),
    (11, ""): ("AVG",),
}
"""Of the modes that do not fill their table's columns."""
NO_TOOLCHAIN, NO_DATA = ("Julia", "TS"), ("FR", "ES", "AR", "RU", "JA")
HOSTILE = "</pre><script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[31m\u202egnp.exe\x00\ud800"


def task_name(table, column, mode):
    """Name of the made-up task of a cell."""
    mode = mode if table == 7 or column == "BBH" or mode == "means over questions" else ""
    return "_".join(word for word in (f"t{table}", column, mode) if word).lower().replace(" ", "_").replace("+", "p")


def columns(table, mode):
    """The columns that have a cell of that mode."""
    return COLUMNS.get((table, mode), load_paper().tables[table].columns)


@cache
def benchmarks():
    """A benchmark for each table, with a task for each column."""
    made = []
    for number, table in load_paper().tables.items():
        cells, tasks = [], {}
        for mode in MODES.get(number, ("",)):
            for column in columns(number, mode):
                name = task_name(number, column, mode)
                scored = metric(number, column, mode)
                averaged = column != "AVG" and number not in (4, 5)
                cells.append(
                    Cell(table=number, column=column, tasks=(name,), metric=scored, mode=mode, in_average=averaged)
                )
                tasks[name] = TaskSpec(name=name, yaml="", dataset=name, shots=shots(number, mode))
        made.append(
            Benchmark(name=f"t{number}", title=table.title, area="", tasks=tuple(tasks.values()), cells=tuple(cells))
        )
    return made


def metric(table, column="", mode=""):
    """The headline metric of a cell."""
    if column == "GSM8K":
        return f"exact_match,{mode}"
    return {3: "acc_norm", 5: "pass@1", 6: "pass@1", 7: "acc", 10: "spbleu", 11: "acc"}.get(table, "exact_match")


def shots(table, mode):
    return int(mode[0]) if table == 7 else {4: 5, 5: 8, 8: 1, 9: 8, 10: 8, 11: 5}.get(table, 0)


def evaluation(*, strength=0.7, limit=None, tokens=8_000_000_000_000, checkpoint="step-00160000"):
    """The evaluation of a model of `strength` times the paper's figures: Table 6 and 10 lack columns, Table 8 all."""
    tasks, missing, runs = {}, [], {}
    for number in load_paper().tables:
        if number == 8:
            missing.append(lack(8, "t8", "data", "TyDiQA-GoldP: not in suite.data (evalsets)", ""))
            continue
        for mode in MODES.get(number, ("",)):
            for column in columns(number, mode):
                name = task_name(number, column, mode)
                if (number == 6 and column in NO_TOOLCHAIN) or (number == 10 and column in NO_DATA):
                    missing.append(reason(number, column, name))
                    continue
                found = task_result(number, column, mode, strength, limit)
                tasks.setdefault(name, found)["metrics"] |= found["metrics"]
                tasks[name]["stderrs"] |= found["stderrs"]
                run = runs.setdefault(name, SimpleNamespace(metrics={}, stderrs={}, items=found["items"]))
                run.metrics[found["metric"]], run.stderrs[found["metric"]] = found["value"], found["stderr"]
    tables = table_rows([each for each in benchmarks() if each.name != "t8"], runs, missing)
    return {
        "tasks": tasks,
        "tables": tables,
        "missing": missing,
        "settings": settings(limit),
        "model": "runs/made_up_15b/latest/export",
        "suite": "paper",
        "checkpoint": checkpoint,
        "trained_tokens": tokens,
        "parameters": 15_628_926_976,
        "run_id": "0" * 32,
        "seconds": 19_342.0,
    }


def reason(number, column, name):
    if number == 6:
        command = "apt-get install node-typescript" if column == "TS" else ""
        return lack(6, name, "toolchain", f"{column}: its toolchain was not found", command)
    return lack(
        10,
        name,
        "data",
        "FLORES-101 devtest: five of eight languages are not in suite.data (evalsets)",
        "nemotron4 eval suite=flores suite.hub=true",
    )


def lack(table, task, kind, message, command):
    return {"task": task, "tables": [table], "kind": kind, "message": message, "command": command}


def task_result(number, column, mode, strength, limit):
    table = load_paper().tables[number]
    printed = next(r for r in reversed(table.rows) if not r.later and r.mode in (mode, "")).cells[column]
    chance, draw = table.chance.get(column, 0), random.Random(f"{number} {column} {mode}").uniform(-4, 4)
    points = max(chance - 3, min(97.0, chance + (printed - chance) * strength + draw))
    points = max(0.0, points - 12 * (mode == "direct"))
    items = min(ITEMS[number], limit or ITEMS[number])
    share = points / 100 if number == 10 else round(points / 100 * items) / items
    stderr = 0.006 if number == 10 else math.sqrt(share * (1 - share) / max(1, items - 1))
    name, scored = task_name(number, column, mode), metric(number, column, mode)
    return {
        "metric": scored,
        "value": share,
        "stderr": stderr,
        "items": items,
        "shots": shots(number, mode),
        "metrics": {scored: share, "gold_bits_per_byte": round(1.9 - share / 2, 4)},
        "stderrs": {scored: stderr},
        "version": "1.0",
        "dataset": name,
        "dataset_digest": hashlib.sha256(name.encode()).hexdigest(),
        "cut_items": 3 if number == 11 else 0,
        "failed_items": 1 if number == 9 else 0,
        "samples": f"samples/{name}.jsonl",
    }


def settings(limit):
    return {
        "document_start": "eos",
        "few_shot_seed": 1234,
        "limit": limit,
        "samples": 1,
        "sandbox": {"level": "landlock", "cannot_hold": ["UDP sockets", "changes of file modes in its own directory"]},
        "flores_tokenizer_sha256": None,
        "context_tokens": 4_096,
        "versions": {"nemotron4-eval": "0.1.0", "lm_eval": "0.4.13", "torch": "2.13.0"},
    }


def samples():
    """Records as the harness gives them, by task: two of them hostile."""
    return {
        "t3_arc-e": [choice(i) for i in range(450)],
        "t3_winogrande": [two_contexts(i) for i in range(4)],
        "t5_gsm8k": [generated(i, name) for name in ("strict", "flexible") for i in range(6)],
    }


def choice(i):
    words = ["a leaf", "a stone", "Sand & <b>salt</b>", HOSTILE if i == 1 else "the moon"]
    prompt, scores = (
        f"Question: Made up, number {i}: which of these grows?\nAnswer:",
        [-4.2, -9.5, -12.25, -7.0 - i % 3],
    )
    right = float(i % 4 != 2)
    gold = 0 if right else 1
    return {
        "doc_id": i,
        "doc": {"question": f"number {i}", "choices": words},
        "target": gold,
        "arguments": [[prompt, f" {word}"] for word in words],
        "resps": [[[score, False]] for score in scores],
        "filtered_resps": [[score, False] for score in scores],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "acc": right,
        "acc_norm": right,
    }


def two_contexts(i):
    return choice(i) | {
        "arguments": [[f"Made up: the {who}", " fell."] for who in ("cup", "shelf")],
        "filtered_resps": [[-3.0, False], [-2.0, True]],
        "target": " fell.",
    }


def generated(i, name):
    shots_text = "".join(
        f"Q: How much is {n} and {n}?\nA: {n} + {n} = {2 * n}. The answer is {2 * n}.\n\n" for n in range(8)
    )
    answer = HOSTILE if i == 2 else f" {i} + {i} = {2 * i}. The answer is {2 * i + (i == 4)}."
    found = "[invalid]" if i == 2 else str(2 * i + (i == 4))
    return {
        "doc_id": i,
        "doc": {"question": f"How much is {i} and {i}?"},
        "target": str(2 * i),
        "arguments": {
            "gen_args_0": {"arg_0": f"{shots_text}Q: How much is {i} and {i}?\nA:", "arg_1": {"until": ["\n\n"]}}
        },
        "resps": [[answer]],
        "filtered_resps": [found],
        "filter": name,
        "metrics": ["exact_match"],
        "exact_match": float(i not in (2, 4)),
    }


def save(out, made, records):
    """Write eval.json and samples into `out`."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    (out / "eval.json").write_text(json.dumps(made))
    for name, lines in records.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (out / "samples" / f"{name}.jsonl").write_text(text)


def write(out, made, records=None):
    """Write eval.json, samples and the report into `out`; returns the page."""
    save(out, made, samples() if records is None else records)
    return write_report(out, made, benchmarks())


def write_run(root, strengths=(0.3, 0.45, 0.55, 0.7), items=40):
    """Evaluations of several checkpoints of one run, each with scores of some items; their directories."""
    directories = []
    for index, strength in enumerate(strengths, 1):
        tokens, name = index * 2_000_000_000_000, f"step-{index * 40_000:08}"
        made = evaluation(strength=strength, tokens=tokens, checkpoint=name)
        records = {name: scored(name, task, strength, items) for name, task in made["tasks"].items()}
        save(root / name, made, records)
        directories.append(root / name)
    return directories


def scored(name, task, strength, items):
    """Records with nothing but a score: an item that a weaker model solves, a stronger one mostly does too."""
    metric, _, filtered = task["metric"].partition(",")
    if metric == "spbleu":
        return [{"doc_id": i, "filter": "none", "metrics": [metric], metric: ["gold", "answer"]} for i in range(items)]
    draw, own = random.Random(name), random.Random(f"{name} {strength}")
    scores = [float(draw.random() < strength + own.uniform(-0.1, 0.1)) for _ in range(items)]
    return [
        {"doc_id": i, "filter": filtered or "none", "metrics": [metric], metric: score}
        for i, score in enumerate(scores)
    ]


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), evaluation()))
    print(write_comparison(Path(sys.argv[1]) / "compared", write_run(Path(sys.argv[1]) / "run"), benchmarks()))
