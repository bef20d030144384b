"""Items of MGSM and TyDi QA from their published files, whose one file holds several languages.

Invariant: the fields of items are those of the hub, and an example of MGSM has its answer in English too.
"""

import ast
from collections.abc import Mapping
from typing import Any

Rows = list[dict[str, Any]]

TYDIQA_LANGUAGES = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}
"""What the ids of items begin with, by code."""
FLORES_NAMES = {
    "en": ("eng", "eng_Latn"),
    "fr": ("fra", "fra_Latn"),
    "es": ("spa", "spa_Latn"),
    "ar": ("ara", "arb_Arab"),
    "ru": ("rus", "rus_Cyrl"),
    "ja": ("jpn", "jpn_Jpan"),
    "de": ("deu", "deu_Latn"),
}
"""Names of a language's files in FLORES-101 and FLORES-200, by code."""


def mgsm_items(rows: Rows) -> Rows:
    """Items; the number is text as published, such as 2,125."""
    return [{**row, "answer": None, "english_answer": None} for row in rows]


def mgsm_examples(rows: Rows) -> Rows:
    """The examples of all languages, from the object that holds them by language."""
    (by_language,) = rows
    return [
        {
            "language": language,
            "question": example["question"],
            "answer": example["answer"],
            "english_answer": english["answer"],
            "answer_number": str(example["answer_number"]),
        }
        for language, examples in by_language.items()
        for example, english in zip(examples, by_language["en"], strict=True)
    ]


def mgsm_examples_from_source(rows: Rows) -> Rows:
    """The same from the lines of exemplars.py, which is read as literals and not run."""
    constants = {
        target.id: ast.literal_eval(statement.value)
        for statement in ast.parse("\n".join(row["line"] for row in rows)).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    numbers = constants["EXEMPLAR_NUMBER_ANSWERS"]
    by_language = {
        language: [
            {"question": examples[key]["q"], "answer": examples[key]["a"], "answer_number": numbers[int(key) - 1]}
            for key in sorted(examples, key=int)
        ]
        for language, examples in constants["MGSM_EXEMPLARS"].items()
    }
    return mgsm_examples([by_language])


def is_of_language(item: Mapping[str, Any], language: str) -> bool:
    """Whether an item is of the language, where a file holds several."""
    found: str = item.get("language", language)
    return found == language


def is_tydiqa_item_of(item: Mapping[str, Any], language: str) -> bool:
    """Whether an item is of the language, which its id begins with."""
    identifier: str = item["id"]
    return identifier.startswith(f"{TYDIQA_LANGUAGES.get(language, language)}-")


def squad_items(rows: Rows) -> Rows:
    """Items as on the hub, from a file in the format of SQuAD 1.1."""
    return [
        {
            "id": question["id"],
            "title": article.get("title", ""),
            "context": paragraph["context"],
            "question": question["question"],
            "answers": {
                "text": [answer["text"] for answer in question["answers"]],
                "answer_start": [answer["answer_start"] for answer in question["answers"]],
            },
        }
        for file in rows
        for article in file["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
