"""What benchmarks read, made when it is first asked for and kept in build/bench; delete that to make it anew.

Invariants: names of `Inputs` are the words in braces of a benchmark's arguments; an input is whole or absent.
"""

import json
import lzma
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "packages" / "data" / "src" / "nemotron4_data" / "sample"
TOY_DOCUMENTS = {"english": 100, "multilingual": 5, "code": 5}
"""Of each source of the sample, by its file, in the toy corpus: one in five is held out."""
TOY_CHARACTERS = 1_000
"""Of a document of the toy corpus, at most."""


_TRAINING = ("experiment=demo", "trainer.max_steps=200", "trainer.validation_bytes_per_source=100")
"""A minute of the demo's five."""
_TOY_TRAINING = (
    "experiment=smoke",
    "trainer.max_steps=2",
    "trainer.validation_bytes_per_source=100",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=1",
)


class Inputs(Mapping[str, str]):
    """Name -> path; making takes minutes the first time."""

    def __init__(self, toy: bool, directory: Path | None = None) -> None:
        self.directory = directory or ROOT / "build" / "bench" / ("toy" if toy else "full")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._makers: dict[str, Callable[[Path], None]] = {
            "corpus": _make_toy_corpus if toy else _make_corpus,
            "model_of_corpus": partial(self._make_model, "nano_1m" if toy else "nano_10m"),
            "trained": partial(self._make_trained, _TOY_TRAINING if toy else _TRAINING),
        }

    def __getitem__(self, name: str) -> str:
        path = self.directory / name
        if not path.exists():
            making = self.directory / f".making_{name}"
            shutil.rmtree(making, ignore_errors=True)
            self._makers[name](making)
            making.rename(path)
        return str(path)

    def _make_model(self, preset: str, path: Path) -> None:
        """A model directory with random weights, the corpus's tokenizer and as many ids as it has pieces."""
        from nemotron4_data import Corpus
        from nemotron4_data.manifest import TOKENIZER_FILE
        from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

        corpus = Corpus.open(self["corpus"])
        config = ModelConfig(**{**vars(ModelConfig.preset(preset)), "vocab_size": corpus.vocab_size})
        model = Transformer(config)
        initialise(model, 0, config)
        save_pretrained(model, path, tokenizer_model=corpus.dir / TOKENIZER_FILE)

    def _make_trained(self, settings: Sequence[str], path: Path) -> None:
        """The export of a model that was trained on {corpus}."""
        run = path.with_name("trained_run")
        shutil.rmtree(run, ignore_errors=True)
        nemotron4("train", f"data.dir={self['corpus']}", f"run.dir={run}", *settings)
        nemotron4("export", f"run={run}", f"dir={path}")
        shutil.rmtree(run)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def nemotron4(*words: str) -> None:
    """Run a verb; CalledProcessError if it fails, after what it said on stderr."""
    command = [sys.executable, "-m", "nemotron4_config.main", *words]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    done.check_returncode()


def _make_corpus(path: Path) -> None:
    nemotron4("prepare", "corpus=sample", f"dir={path}")


def _make_toy_corpus(path: Path) -> None:
    """Beginnings of documents of every source of the sample, with a vocabulary of 1,024 pieces."""
    raw = path.with_name("toy_raw")
    raw.mkdir(exist_ok=True)
    for name, limit in TOY_DOCUMENTS.items():
        taken: Counter[str] = Counter()
        with (
            lzma.open(SAMPLE / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines,
            (raw / f"{name}.jsonl").open("w", encoding="utf-8") as file,
        ):
            for record in map(json.loads, lines):
                number = taken[record["source"]]
                if number < limit:
                    taken[record["source"]] += 1
                    split = "heldout" if number % 5 == 4 else "train"
                    file.write(json.dumps(record | {"text": record["text"][:TOY_CHARACTERS], "split": split}) + "\n")
    files = (
        f"corpus.files=[{raw}/*.jsonl]",
        "corpus.name=toy",
        "tokenizer.vocab_size=1024",
        "tokenizer.character_coverage=0.98",
        "executor.num_workers=1",
    )
    nemotron4("prepare", "corpus=files", *files, f"dir={path}")
