"""The SentencePiece model of FLORES-101, and spBLEU with it.

Invariant: a score is called spBLEU only if its text was cut by the model that was found here, whose SHA-256 is recorded
beside it, since it has no published checksum. Source: arXiv 2106.03193; sacreBLEU's `tokenize=flores101`, which opens
its model at one place alone, chosen when it is imported.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nemotron4_eval.data.locate import DATA_VARIABLE

FILE = "sacrebleu_tokenizer_spm.model"
"""The model's published name."""
URL = f"https://dl.fbaipublicfiles.com/fairseq/models/flores/{FILE}"
_current: list[Path | None] = []


def find_flores_tokenizer(given: Path | None, directory: Path | None, *, download: bool = False) -> Path | None:
    """The model: `suite.flores_tokenizer`, or its published name in `suite.data`, or in sacreBLEU's own directory,
    where sacreBLEU puts it if `download`. None if it is nowhere; ValueError, one line, for a file that is none.
    """
    if given is not None:
        _opened(given)
        return given
    own = Path(os.environ.get("SACREBLEU") or Path.home() / ".sacrebleu") / "models" / FILE
    places = [directory / folder / FILE for folder in ("", "models", "flores101")] if directory is not None else []
    for place in (*places, own):
        if place.is_file() and place.stat().st_size:
            _opened(place)
            return place
    return own if download and _downloaded(own) else None


def use_flores_tokenizer(path: Path | None) -> None:
    """Have tasks of this process use this model; None for none."""
    _current[:] = [path]


def current_flores_tokenizer() -> Path | None:
    """The model set by `use_flores_tokenizer`, else what is found in the directory of items or sacreBLEU's own."""
    if not _current:
        directory = os.environ.get(DATA_VARIABLE)
        _current.append(find_flores_tokenizer(None, Path(directory) if directory else None))
    return _current[0]


def spbleu(lines: Sequence[tuple[str, str]], model: Path) -> float:
    """spBLEU, 0 to 100, over pairs of a translation and the right one, all lines together."""
    metric = _metric(model)
    return float(metric.corpus_score([line for line, _ in lines], [[right for _, right in lines]]).score)


def spbleu_stderr(lines: Sequence[tuple[str, str]], model: Path) -> float:
    """Standard error of spBLEU, 0 to 100, from lines drawn again (see `bootstrap_stderr`)."""
    return bootstrap_stderr(_metric(model), lines)


def bootstrap_stderr(metric: Any, lines: Sequence[tuple[str, str]]) -> float:
    """Standard error of a metric of sacreBLEU: half its 95 % interval over 1,000 drawn corpora, over 1.96.

    Not a number for fewer than two lines.
    """
    if len(lines) < 2:
        return float("nan")
    score = metric.corpus_score([line for line, _ in lines], [[right for _, right in lines]], n_bootstrap=1_000)
    return float(score._ci) / 1.96  # sacreBLEU prints it, and gives it under no public name


def spbleu_signature(model: Path) -> str:
    """sacreBLEU's signature, with its version and settings."""
    metric = _metric(model)
    metric.corpus_score([""], [[""]])
    return str(metric.get_signature())


def _metric(model: Path) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.tokenizers.tokenizer_base import BaseTokenizer

    processor = _opened(model)

    class Pieces(BaseTokenizer):
        def __call__(self, line: str) -> str:
            return " ".join(processor.encode(line, out_type=str))

    metric = BLEU(tokenize="none", force=True)  # force: pieces are not a mistaken second tokenising
    metric.tokenizer, metric.tokenizer_signature = Pieces(), "flores101"
    return metric


@cache
def _opened(path: Path) -> Any:
    import sentencepiece as spm

    try:
        return spm.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        reason = "it is not there" if not path.is_file() else "it is no SentencePiece model"
        raise ValueError(
            f"suite.flores_tokenizer ({path}): cannot be opened ({reason}); give the file {FILE} of FLORES-101"
        ) from error


def _downloaded(path: Path) -> bool:
    """Whether sacreBLEU could download it; what an attempt leaves behind is removed."""
    from sacrebleu.utils import download_file

    try:
        download_file(URL, str(path))  # type: ignore[no-untyped-call]  # sacrebleu has no annotations here
    except OSError:
        if path.is_file() and not path.stat().st_size:
            path.unlink()
        return False
    finally:
        Path(f"{path}.lock").unlink(missing_ok=True)
    return True
