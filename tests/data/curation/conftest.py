"""Documents in the form that curation sees, and the shipped sample."""

import json
import lzma
from pathlib import Path

import pytest

SAMPLE = Path(__file__).resolve().parents[3] / "packages/data/src/nemotron4_data/sample"


@pytest.fixture(scope="session")
def document():
    def make(text, language="en", source="english/documents", **fields):
        declared = {"language": language} if language else {}
        return {"id": "d1", "text": text, "source": source, "split": "train", **declared, **fields}

    return make


@pytest.fixture(scope="session")
def sample():
    """Documents of the shipped sample by domain."""
    documents = {}
    for domain in ("english", "multilingual", "code"):
        with lzma.open(SAMPLE / f"{domain}.jsonl.xz", "rt", encoding="utf-8") as lines:
            documents[domain] = [json.loads(line) for line in lines]
    return documents


@pytest.fixture(scope="session")
def prose():
    """Sixty-odd words that break no rule."""
    return (
        "The river was wide and slow, and the people of the valley had learned to live with it.\n"
        "Every spring the water rose above the fields that lay beside its banks.\n"
        "Nobody there seemed to be troubled, because their houses stood on higher ground.\n"
        "When summer came, children would swim across to the other side.\n"
        "By autumn the mills began to turn again, grinding what farmers brought in carts.\n"
    )
