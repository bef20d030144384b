"""The tasks of xcopa, mgsm, tydiqa and flores under the harness's own functions, as any of its users runs them."""

import logging
import math
import re
from collections import defaultdict

import pytest
from evalsets import evalsets
from lm_eval import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from multilingual_items import (
    FLORES,
    MGSM,
    XCOPA,
    Answering,
    tydiqa_item,
    write_flores,
    write_json_lines,
    write_mgsm,
    write_xcopa,
)

from nemotron4_eval.data.flores_tokenizer import use_flores_tokenizer
from nemotron4_eval.data.locate import DATA_VARIABLE
from nemotron4_eval.suites.suite import TASKS_DIR, load_benchmark

BENCHMARKS = ("xcopa", "mgsm", "tydiqa", "flores")


@pytest.fixture(scope="module")
def manager():
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=str(TASKS_DIR), include_defaults=False)


@pytest.fixture
def items(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path


def evaluated(manager, name, answer):
    """Metrics of a task, what the model was asked, and the items' records."""
    model = Answering(answer)
    task = manager.load([name])["tasks"][name]
    task.set_fewshot_seed(1234)
    result = evaluate(model, {name: task}, bootstrap_iters=0)
    return result["results"][name], model.asked, result["samples"][name]


def prompts(manager, name, *, shots=None, seed=1234, **options):
    task = manager.load([name])["tasks"][name]
    if shots is not None:
        task.config.num_fewshot = shots
    task.set_fewshot_seed(seed)
    task.build_all_requests(**options)
    return {request.doc_id: request.args[0] for request in task.instances}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_names_the_tasks_of_its_folder(name):
    benchmark = load_benchmark(name)
    for spec in benchmark.tasks:
        config = load_yaml(TASKS_DIR / name / spec.yaml)
        assert config["dataset_kwargs"] == {"dataset": spec.dataset}
        assert config.get("num_fewshot", spec.shots) == spec.shots
    assert {task for cell in benchmark.cells for task in cell.tasks} <= {spec.name for spec in benchmark.tasks}
    columns = defaultdict(list)
    for cell in benchmark.cells:
        columns[cell.table, cell.mode].append(cell.column)
    expected = {
        "xcopa": ((7, "0-shot", 11), (7, "4-shot", 11)),
        "mgsm": ((9, "English CoT", 10), (9, "native CoT", 10)),
        "tydiqa": ((8, "", 8),),
        "flores": ((10, "", 7),),
    }
    assert tuple((*row, len(found)) for row, found in columns.items()) == expected[name]


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("ht", "0 tifi a bwè dlo paske li te swaf."),
        ("sw", "0 mtoto alikula mkate kwa sababu alikuwa na njaa."),
        ("ta", "0 சிறுமி தண்ணீர் குடித்தாள் ஏனெனில் அவளுக்கு தாகம்."),
        ("qu", "0 warma yakuta upyarqa because pay yakunayarqa."),
        ("zh", "0 女孩喝了水。因為她渴了。"),
    ],
)
def test_xcopa_of_held_back_languages(manager, items, language, sentence):
    write_xcopa(items, language)
    right = XCOPA[language][1].lower()
    metrics, asked, _ = evaluated(manager, f"xcopa_mgpt_{language}", lambda _, text: float(text.endswith(right)))
    assert metrics["acc,none"] == 1
    assert asked[0] == ("", sentence)


def test_xcopa_effect_and_sums(manager, items):
    premise = "I. Ev SOĞUKTU!"
    item = {"premise": premise, "choice1": "Ali çıktı.", "choice2": "Üşüdü ve uzun uzun titredi.", "label": 1, "idx": 0}
    for split in ("val", "test"):
        write_json_lines(items / "xcopa" / f"{split}.tr.jsonl", [item | {"question": "effect", "changed": True}])
    metrics, asked, _ = evaluated(manager, "xcopa_mgpt_tr", lambda _, text: -float(len(text)))
    assert [text for _, text in asked] == [
        "I ev soğuktu! böyle ali çıktı.",
        "I ev soğuktu! böyle üşüdü ve uzun uzun titredi.",
    ]
    assert metrics["acc,none"] == 0  # the longer one is less likely as a whole, though not by character


def test_xcopa_draws_examples_for_each_item(manager, items):
    write_xcopa(items, "sw", items=8)
    name = "xcopa_mgpt_sw"
    found = prompts(manager, name, shots=4)
    for prompt in found.values():
        lines = prompt.splitlines()
        assert prompt == "".join(f"{line}\n" for line in lines)
        assert len(lines) == len({line.split()[0] for line in lines}) == 4
        assert all(re.fullmatch(r"1\d\d mtoto alikula mkate kwa sababu alikuwa na njaa\.", line) for line in lines)
    assert len(set(found.values())) == len(found)
    assert prompts(manager, name, shots=4, seed=5) != found
    assert list(prompts(manager, name, shots=4, limit=2).values()) == [found[0], found[1]]
    assert list(prompts(manager, name, shots=4, samples=[3, 6]).values()) == [found[3], found[6]]
    ranks = [prompts(manager, name, shots=4, rank=rank, world_size=2) for rank in range(2)]
    assert sorted([*ranks[0].values(), *ranks[1].values()]) == sorted(found.values())


@pytest.mark.parametrize("language", ["bn", "te", "sw"])
def test_mgsm_of_held_back_languages(manager, items, language):
    write_mgsm(items, ["bn", "te", "sw"])
    question, answer, end, text = MGSM[language]
    native_digits = {"bn": "২,১২০", "te": "౨,౧౨౦", "sw": "$2 120"}[language]
    answers = iter([f" 1 + 1. The answer is {native_digits}.", " So 1.234 in all", " The answer is 13."])
    metrics, asked, samples = evaluated(manager, f"mgsm_cot_english_{language}", lambda *_: next(answers))
    assert metrics["exact_match,strict-match"] == pytest.approx(1 / 3)
    assert metrics["exact_match,flexible-extract"] == pytest.approx(2 / 3)
    assert samples[0]["target"] == "2120"
    shots = asked[0][0].split("\n\n")
    assert len(shots) == 9
    first = question + text.format(1, 2) + "\nStep-by-Step Answer: 1 + 2 = 3. The answer is 3."
    assert shots[0] == first
    assert shots[8] == question + text.format(0, 3) + "\nStep-by-Step Answer:"

    task = manager.load([f"mgsm_cot_english_{language}"])["tasks"][f"mgsm_cot_english_{language}"]
    assert task.resolve_field(task.eval_docs[0], task.config.metadata["gold"]) == " The answer is 2,120."

    native, asked, _ = evaluated(manager, f"mgsm_cot_native_{language}", lambda *_: f" 1 + 1. {end.format('1234')}")
    shots = asked[0][0].split("\n\n")
    assert shots[0] == question + text.format(1, 2) + "\n" + answer + f"1 + 2 = 3. {end.format(3)}"
    assert shots[8] == question + text.format(0, 3) + "\n" + answer.rstrip()
    assert native["exact_match,strict-match"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("language", ["ar", "ko"])
def test_tydiqa(manager, items, language):
    name = {"ar": "arabic", "ko": "korean"}[language]
    scored = [tydiqa_item(name, number, ("The green one", "green")) for number in range(6)]
    write_json_lines(items / "tydiqa" / "goldp_dev.jsonl", [*scored, tydiqa_item("finnish", 0)])
    answers = iter([" Green one!", " a GREEN\n", " the green tree", " red", "", " greens"])
    metrics, asked, samples = evaluated(manager, f"tydiqa_{language}", lambda *_: next(answers))
    assert metrics["exact_match,none"] == pytest.approx(2 / 6)
    assert [sample["f1"] for sample in samples] == pytest.approx([1, 1, 2 / 3, 0, 0, 0])
    for (prompt, _), sample in zip(asked, samples, strict=True):
        example, item = prompt.split("\n\n")
        context = sample["doc"]["context"]
        assert item == f"Context: {context}\nQuestion: {sample['doc']['question']}\nAnswer:"
        assert example.endswith("\nAnswer: The green one")
        assert context not in example

    write_json_lines(items / "tydiqa" / "goldp_train.jsonl", [tydiqa_item(name, 90, ("blue",))])
    assert all(
        "was blue.\nQuestion: Question 90?\nAnswer: blue\n\n" in p
        for p in prompts(manager, f"tydiqa_{language}").values()
    )


def test_tydiqa_without_an_example_to_show(manager, items):
    write_json_lines(items / "tydiqa" / "goldp_dev.jsonl", [tydiqa_item("bengali", number) for number in range(2)])
    with pytest.raises(
        ValueError,
        match=r"^its prompts need 1 example, and among 2 items 0 can be one; give the split train of the data too$",
    ):
        prompts(manager, "tydiqa_bn")


def test_flores_draws_examples_once(manager, items):
    write_flores(items, "devtest")
    found = prompts(manager, "flores101_zh_fr")
    blocks = {number: prompt.split("\n\n") for number, prompt in found.items()}
    for number, (*shots, item) in blocks.items():
        assert item == f"Chinese: 这是第 {number} devtest 行。\nFrench:"
        assert len(set(shots)) == 8
        assert all(
            re.fullmatch(r"Chinese: 这是第 (\d+) devtest 行。\nFrench: Voici la ligne numéro \1 devtest\.", s)
            for s in shots
        )
        assert item.partition("\n")[0] not in "\n".join(shots)
    assert len({tuple(shots) for *shots, _ in blocks.values()}) == 1 + 8  # all but the eight themselves see the same
    assert manager.load(["flores101_zh_fr"])["tasks"]["flores101_zh_fr"].config.metadata["shots_from"] == "devtest"

    write_flores(items, "dev")
    found = prompts(manager, "flores101_zh_fr")
    assert len({prompt.rpartition("\n\n")[0] for prompt in found.values()}) == 1
    assert all(prompt.count(" dev 行。") == 8 for prompt in found.values())


def test_flores_scores_with_their_errors(manager, items):
    write_flores(items, "dev", "devtest")
    use_flores_tokenizer(None)
    metrics, _, _ = evaluated(manager, "flores101_zh_de", lambda prompt, _: f" Dies ist eine Zeile {len(prompt) % 3}.")
    assert 0 < metrics["chrf++_stderr,none"] < metrics["chrf++,none"] < 1
    assert math.isnan(metrics["spbleu,none"])
    metrics, _, _ = evaluated(manager, "flores101_zh_de", lambda prompt, _: right_line(prompt))
    found = [metrics[f"{name},none"] for name in ("chrf++", "bleu_13a", "bleu_char")]
    assert found == pytest.approx([1, 1, 1])


def right_line(prompt):
    number = prompt.rpartition("第 ")[2].partition(" 行")[0]
    return " " + FLORES["deu"].format(number)


def test_published_exemplars_are_read_as_they_say(manager, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(evalsets()))
    from nemotron4_eval.data.locate import load_from_environment
    from nemotron4_eval.tasks.mgsm.utils import canonical, stated_number

    for language in ("en", "es", "ja", "th"):
        items = load_from_environment(f"mgsm/{language}")
        assert (len(items["train"]), len(items["test"])) == (8, 250)
        right = [[canonical(each)] for each in items["train"]["answer_number"]]
        for column in ("answer", "english_answer"):
            assert stated_number([[each] for each in items["train"][column]], []) == right
        for style, until in (("english", "Step-by-Step Answer:"), ("native", None)):
            name = f"mgsm_cot_{style}_{language}"
            if name == "mgsm_cot_native_en":
                continue
            *shots, item = prompts(manager, name, limit=1)[0].split("\n\n")
            opening = re.match(r"[^:：]*[:：]\s*", shots[0])[0]
            assert item.startswith(opening + items["test"][0]["question"][:9])
            answer = item.rpartition("\n")[2]
            assert answer == until or until is None
            assert f"\n{answer}" in shots[0]
