"""What `--help` says of a verb, a group and a key, and the pages of docs/reference/ that are made of the same."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemotron4_config.command import command_loaders, load_attribute
from nemotron4_config.help_text import CONF, config_groups
from nemotron4_config.keys import Key, as_typed, first_sentence, job_keys
from nemotron4_config.main import main
from nemotron4_config.reference import pages, stale

DOCS = Path(__file__).parents[2] / "docs" / "reference"
# What a number counts or measures, or that it has no unit.
UNITS = (
    *("bytes", "MB", "megabytes", "tokens", "steps", "seconds", "minutes", "FLOPs", "TFLOP/s", "epochs", "characters"),
    *("words", "sentences", "lines", "sequences", "ranks", "machines", "processes", "threads", "cores", "jobs"),
    *("checkpoints", "replicas", "tasks", "dimensions", "heads", "pieces", "items", "bands", "values", "hash signs"),
    *("number", "share", "fraction", "probability", "percentiles", "deviations", "rate", "seed", "times", "exponent"),
    *("decay", "norm", "deviation", "similarity", "weigh", "logits", "length", "devices", "hours", "currency"),
)


class Color(Enum):
    light_red = "red"
    blue = "B"


@dataclass
class Part:
    size: int
    """Its size, in bytes. Not
    its weight."""
    color: Color | None = Color.light_red


@dataclass
class Job:
    part: Part
    """What is made."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Others by name."""
    limits: list[float] = field(default_factory=lambda: [0.5, 20_000])
    names: dict[str, str | None] = field(default_factory=lambda: {"a": None, "b": ""})
    color: Color = Color.blue


@pytest.fixture(scope="module")
def texts():
    return pages()


def shown(capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_keys_are_the_fields_with_their_docstrings():
    assert job_keys(Job) == [
        Key("part", "keys", None, "What is made."),
        Key("part.size", "whole number", None, "Its size, in bytes. Not its weight."),
        Key("part.color", "light_red, blue or null", "light_red", ""),
        Key("parts", "keys by name", "{}", "Others by name."),
        Key("parts.NAME.size", "whole number", None, "Its size, in bytes. Not its weight."),
        Key("parts.NAME.color", "light_red, blue or null", "light_red", ""),
        Key("limits", "list of numbers", "[0.5, 20_000]", ""),
        Key("names", "mapping of names to text or null", "{a: null, b: ''}", ""),
        Key("color", "light_red or blue", "blue", ""),
    ]


def test_a_sentence_ends_before_a_capital():
    assert first_sentence("A path, e.g. runs/demo or arXiv 1.2. Then more.") == "A path, e.g. runs/demo or arXiv 1.2."
    assert first_sentence("All of it") == "All of it"


@pytest.mark.parametrize("value", [None, True, 3, 25_000, -0.5, 1e-8, "text", ["a", "b"], {"a": [1, None]}])
def test_a_default_is_written_as_it_is_typed(value):
    assert OmegaConf.create(as_typed({"key": value})) == {"key": value}


def test_a_verb_shows_the_groups_that_it_uses(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, "eval", "--help")
    assert text.startswith(
        "Measure a trained model: held-out text, the paper's benchmarks and harness tasks.\n\nnemotron4 eval "
    )
    groups, keys = text.split("Groups and their options:\n")[1].split("\n\nKeys and their values:\n")
    assert groups.startswith("  suite=demo                                bbh, bits_per_byte, code, ")
    assert keys.startswith("  model_dir                                 (text, required) ")
    assert "\n  suite.window_tokens=256                   (whole number or null) " in keys
    assert "Groups" not in shown(capsys, monkeypatch, "data", "adopt", "--help")
    text = shown(capsys, monkeypatch, "plan", "--help", "optimizer=muon", "--cfg", "job")
    groups = re.findall(r"^  (\w+)(?:=\w+)? ", text.split("Groups and")[1].split("Keys and")[0], re.MULTILINE)
    assert groups == [
        *("blend", "evaluation", "experiment", "launcher", "logger", "model", "optimizer", "precision", "schedule"),
        *("topology", "trainer"),
    ]
    assert "  optimizer=muon  " in text
    assert "  optimizer.kind=muon  " in text


def test_one_group(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, "train", "optimizer=muon", "--help", "optimizer")
    options, keys = text.split("\n\n")
    assert options.startswith("Options, as in optimizer=adamw:\n  adamw           ")
    assert "\n  muon                                      Muon for the matrices of the blocks, AdamW for " in options
    assert "\n  optimizer.kind=muon                       (adamw or muon, adamw by default) " in keys
    assert "\n  optimizer.clip_norm=1.0                   (number) Global gradient norm " in keys
    assert re.findall(r"^  (\w+)\.", keys, re.MULTILINE) == ["optimizer"] * 11
    text = shown(capsys, monkeypatch, "train", "--help", "experiment", "seed")
    assert "\n  smoke                                     Purpose: a short run through every " in text
    assert "\n  seed=1234  " in text


def test_a_key_by_its_dotted_name(capsys, monkeypatch):
    text = shown(capsys, monkeypatch, "train", "--help", "schedule.phases", "schedule.phases.warmup.topology")
    phases, topology = text.split("\n\n")
    assert phases.startswith("Keys and their values:\n  schedule.phases=warmup, batch_8, batch_16, ")
    assert "\n  schedule.phases.NAME.tokens               (whole number, required) " in phases
    assert "(keys of topology or null) " in phases
    assert "\n  schedule.phases.warmup.topology.shard=1   (whole number) " in topology


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("suit", "--help (suit): not a group or key of this verb; choose one of: data, dtype, model_dir, out,"
         " suite"),
        ("suite.sandbox.foo", "suite.sandbox.foo: unknown key; suite.sandbox has: weakest"),
        ("out.foo", "out.foo: unknown key; out has no keys"),
    ],
)  # fmt: skip
def test_an_unknown_group_or_key_is_one_line(capsys, topic, message):
    assert main(["eval", "--help", topic]) == 2
    assert capsys.readouterr() == ("", f"nemotron4 eval: {message}\n")


@pytest.mark.parametrize("verb", command_loaders())
def test_every_key_has_a_sentence_and_every_number_a_unit(verb):
    for key in job_keys(load_attribute(command_loaders()[verb]().job)):
        assert re.fullmatch(r"[\w\"].*\.", key.text), f"{key.name}: its docstring must be a sentence ({key.text!r})"
        if "number" in key.type:
            is_said = any(re.search(rf"\b{unit.removesuffix('s')}s?\b", key.text, re.IGNORECASE) for unit in UNITS)
            assert is_said, f"{key.name}: its docstring must say its unit ({key.text!r})"


def test_every_option_begins_with_a_comment():
    for group, options in config_groups().items():
        for option in options if group != "local" else ():
            assert re.match(r"(# @package _global_\n)?# \S", (CONF / group / f"{option}.yaml").read_text("utf-8"))


def test_the_reference_is_that_of_this_code(texts):
    assert list(stale(DOCS, texts)) == [], "run `python -m nemotron4_config.reference`"


def test_a_page_that_differs_is_found(tmp_path, texts):
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    right = (tmp_path / "train.md").read_text(encoding="utf-8")
    assert "\n| `optimizer.kind` | adamw or muon | `adamw` | " in right
    assert "\n| `model.vocab_size` | whole number | `8192` | Tokens in the vocabulary: " in right
    (tmp_path / "train.md").write_text(right + "more\n", encoding="utf-8")
    (tmp_path / "eval.md").rename(tmp_path / "evil.md")
    found = stale(tmp_path, texts)
    assert {path.name: text and text.split("\n")[2] for path, text in found.items()} == {
        "eval.md": "# nemotron4 eval",
        "evil.md": None,
        "train.md": "# nemotron4 train",
    }
    assert found[tmp_path / "train.md"] == right
