"""Invented items in the published formats of XCOPA, MGSM, TyDi QA and FLORES, and a model that answers as told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

XCOPA = {
    "ht": ("Tifi a bwè dlo.", "Li te swaf.", "Li te dòmi."),
    "sw": ("Mtoto alikula mkate.", "Alikuwa na njaa.", "Alikuwa amelala."),
    "ta": ("சிறுமி தண்ணீர் குடித்தாள்.", "அவளுக்கு தாகம்.", "அவள் தூங்கினாள்."),
    "qu": ("Warma yakuta upyarqa.", "Pay yakunayarqa.", "Pay puñurqa."),
    "zh": ("女孩喝了水。", "她渴了。", "她睡着了。"),
}
"""Premise, its cause, and what is not; the right choice stands first in items of even number."""
MGSM = {
    "bn": ("প্রশ্ন: ", "ধাপে ধাপে উত্তর: ", "উত্তর হল {}।", "রিমার {}টি আম আছে। সে আরও {}টি পেল। এখন কতটি?"),
    "te": ("ప్రశ్న: ", "దశలవారీగా సమాధానం: ", "సమాధానం {}.", "రవి దగ్గర {} పండ్లు ఉన్నాయి. ఇంకా {} వచ్చాయి. మొత్తం ఎన్ని?"),
    "sw": ("Swali: ", "Jibu la Hatua kwa Hatua: ", "Jibu ni {}.", "Asha ana maembe {}. Alipata {} zaidi. Ana mangapi?"),
    "en": ("Question: ", "Step-by-Step Answer: ", "The answer is {}.", "Ann has {} pears. She gets {} more. How many?"),
}
"""What a question and an answer begin with, how an answer ends, and a question of two numbers."""
FLORES = {"zho_simpl": "这是第 {} 行。", "fra": "Voici la ligne numéro {}.", "deu": "Dies ist die Zeile Nummer {}."}


class Answering(LM):
    """Logs of likelihoods and texts by a function of the request's arguments; keeps what it was asked."""

    def __init__(self, answer: Callable[..., object]) -> None:
        super().__init__()
        self.answer, self.asked = answer, []

    def _answers(self, requests: Sequence[Instance]) -> list[object]:
        self.asked += [request.args for request in requests]
        return [self.answer(*request.args) for request in requests]

    def loglikelihood(self, requests):
        return [(value, False) for value in self._answers(requests)]

    def generate_until(self, requests):
        return self._answers(requests)

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_json_lines(path: Path, items: Sequence[Mapping[str, object]]) -> None:
    write_lines(path, [json.dumps(item, ensure_ascii=False) for item in items])


def xcopa_item(language: str, number: int) -> dict[str, object]:
    """An item; its number in the premise tells it from others."""
    premise, right, wrong = XCOPA[language]
    choices = (right, wrong) if number % 2 == 0 else (wrong, right)
    return {
        "premise": f"{number} {premise}",
        "choice1": choices[0],
        "choice2": choices[1],
        "question": "cause",
        "label": number % 2,
        "idx": number,
        "changed": False,
    }


def write_xcopa(directory: Path, language: str, *, examples: int = 12, items: int = 6) -> None:
    for split, numbers in (("val", range(100, 100 + examples)), ("test", range(items))):
        path = directory / "xcopa" / f"{split}.{language}.jsonl"
        write_json_lines(path, [xcopa_item(language, number) for number in numbers])


def mgsm_example(language: str, number: int) -> dict[str, object]:
    question, answer, end, text = MGSM[language]
    total = number + 2
    return {
        "question": question + text.format(number, 2),
        "answer": f"{answer}{number} + 2 = {total}. {end.format(total)}",
        "answer_number": total,
        "equation_solution": f"{number} + 2 = {total}.",
    }


def write_mgsm(directory: Path, languages: Sequence[str]) -> None:
    examples = {each: [mgsm_example(each, number) for number in range(1, 9)] for each in ("en", *languages)}
    write_lines(directory / "mgsm" / "exemplars.json", [json.dumps(examples, ensure_ascii=False)])
    for language in languages:
        text = MGSM[language][3]
        totals = ["2,120", "1234", "12"]
        items = [text.format(number, 3) + f"\t{total}" for number, total in enumerate(totals)]
        write_lines(directory / "mgsm" / f"mgsm_{language}.tsv", items)


def tydiqa_item(language: str, number: int, answers: Sequence[str] = ("green",)) -> dict[str, object]:
    context = f"Passage {number // 2}: the tree was {answers[0]}."
    return {
        "id": f"{language}-{number}",
        "title": "",
        "context": context,
        "question": f"Question {number}?",
        "answers": {"text": list(answers), "answer_start": [context.find(each) for each in answers]},
    }


def write_flores(directory: Path, *splits: str, lines: int = 12) -> None:
    for split in splits:
        for name, text in FLORES.items():
            numbers = [f"{number} {split}" for number in range(lines)]
            write_lines(directory / "flores101" / f"{name}.{split}", [text.format(number) for number in numbers])
