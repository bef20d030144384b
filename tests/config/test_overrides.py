"""What a user types after the verb: text stays as it was typed, and what is wrong is one line."""

import pytest
from composed import composed, status_of
from fake_verb import fake_verb
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from nemotron4_config.options import split_options
from nemotron4_config.overrides import typed_overrides
from nemotron4_infer.generate_job import GenerateJob
from nemotron4_train.launcher_config import LauncherConfig

TYPED = st.text(st.characters(exclude_categories=(), exclude_characters="\0"), max_size=12) | st.text(
    " '\"\\,:=()[]{}$#\ta1\n", max_size=12
)


def is_as_typed(text):
    return "${" not in text and not (len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] in "'\"")


def read(override):
    return OverridesParser.create().parse_override(override).value()


@given(TYPED.filter(is_as_typed))
@example("null")
@example("1.50")
@example("range(1,3)")
@example("It's a")
def test_text_is_what_was_typed(text):
    (typed,) = typed_overrides([f"prompt={text}"], GenerateJob, {}, False)
    assert read(typed) == text
    ((again,),) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([typed]), None)[0]
    assert read(again) == text


@given(st.lists(TYPED.filter(lambda text: is_as_typed(text) and not set(text) & set(",()[]{}\\'\"")), min_size=1))
def test_text_of_a_list_is_what_stands_between_commas(texts):
    texts = [text.strip() or "-" for text in texts]
    (typed,) = typed_overrides([f"setup=[{','.join(texts)}]"], LauncherConfig, {}, False)
    assert read(typed) == texts


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("今日は", "今日は"),
        ("Hello!", "Hello!"),
        ("It's a, b", "It's a, b"),
        ("true", "true"),
        ("null", "null"),
        ("  a  ", "  a  "),
        ("'  a  '", "  a  "),
        ('"true"', "true"),
        (r"costs \${5}", "costs ${5}"),
        ("in ${model_dir}", "in m"),
        ("two\nlines", "two\nlines"),
        ("{a: [b}", "{a: [b}"),
    ],
)
def test_a_prompt(typed, text):
    assert composed("generate", "model_dir=m", f"prompt={typed}").prompt == text


def test_text_in_lists_and_mappings():
    job = composed(
        "train",
        "experiment=smoke",
        "launcher.setup=[module load ü, it's, 'a, b', echo [x], 1.50, null]",
        "launcher.environment={A: 1.50, B: x=y, D: 'a, b', E: \"it's, {\"}",
        "launcher.environment.C=true",
        "run.dir=null",
        "resume=1e3",
    )
    assert job.launcher.setup == ["module load ü", "it's", "a, b", "echo [x]", "1.50", "null"]
    assert job.launcher.environment == {"A": "1.50", "B": "x=y", "C": "true", "D": "a, b", "E": "it's, {"}
    assert job.run.dir is None
    assert job.resume == "1e3"


def test_phases_are_added_and_changed():
    numbers = "tokens: 5120, global_batch_size: 8, sequence_length: 64"
    job = composed(
        "train",
        "experiment=smoke",
        f"+schedule.phases.late={{blend: continued, {numbers}, topology: {{shard: 2}}}}",
        f"schedule.phases.last={{blend: continued, {numbers}}}",
        "schedule.phases.main.topology={tensor: 2}",
        "schedule.phases.continued.topology.shard=4",
        "blend.distributions.continued.weights={english: 0.05, english/web: 0.1}",
    )
    phases = job.schedule.phases
    assert list(phases) == ["warmup", "main", "continued", "late", "last"]
    assert (phases["late"].topology.shard, phases["late"].blend) == (2, "continued")
    assert (phases["main"].topology.tensor, phases["continued"].topology.shard) == (2, 4)
    assert job.blend.distributions["continued"].weights["english/web"] == 0.1


def test_text_of_a_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fake_verb("-m", "x=-1", "action=say,Hello!,1.50,'a,b',ü") == 1
    labels = [line.split(" failed")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("job")]
    actions = ("say", "'Hello!'", "'1.50'", "'a,b'", "'ü'")
    assert labels == [f"job {i} (action={action})" for i, action in enumerate(actions)]


@pytest.mark.parametrize("sweep", ["x=range(0)", "x=range(0) action=a,b"])
def test_an_empty_sweep_says_so(tmp_path, monkeypatch, capsys, sweep):
    monkeypatch.chdir(tmp_path)
    assert fake_verb("-m", *sweep.split()) == 2
    assert capsys.readouterr().err == f"nemotron4 fake: -m ({sweep}): has no jobs; one of its lists is empty\n"


def test_options_may_stand_anywhere(capsys):
    assert split_options(["-m", "a=1", "-cd", "x", "--info", "b=2", "--cfg=job"]) == (
        ["--multirun", "--config-dir=x", "--info=all", "--cfg=job"],
        ["a=1", "b=2"],
    )
    assert status_of("data_verify", "data.dir=a", "--cfg", "job", "run=b") == 0
    assert capsys.readouterr().out == "data:\n  dir: a\nledger: null\nrun: b\nmodel_dir: null\n"


def test_a_wrong_type_in_a_site_s_file(tmp_path, capsys):
    (tmp_path / "local").mkdir()
    for text, message in (
        (
            "setup: [echo a: b]",
            "launcher.setup[0] ({'echo a': 'b'}): must be one value, not a list or mapping; put text in quotes",
        ),
        (
            "setup: ['${no}']",
            r"launcher.setup[0] (${no}): Interpolation key 'no' not found; write \${ if it is text, not a reference",
        ),
        ("num_threads: many", "local/default.yaml: launcher.num_threads (many): must be a whole number"),
        ("setup: load x", "local/default.yaml: launcher.setup (load x): must be a list, as in [A, B]"),
        ("nodes: 3", "local/default.yaml: launcher.nodes: unknown key; --help lists the keys"),
    ):
        (tmp_path / "local" / "default.yaml").write_text(f"# @package _global_\nlauncher:\n  {text}\n")
        assert status_of("train", f"--config-dir={tmp_path}", "experiment=smoke") == 2
        assert capsys.readouterr().err == f"nemotron4 train: {message}\n"


PHASE_KEYS = "tokens, blend, global_batch_size, sequence_length, learning_rate, topology"
OPTIONS = "a key is set with {}, -m sweeps, --cfg job shows the job, --help lists the keys"
MALFORMED = [
    ("train", "seed=Hello!", "seed (Hello!): must be a whole number"),
    ("train", "seed=1.5", "seed (1.5): must be a whole number"),
    ("train", "seed=", "seed (''): must be a whole number"),
    ("train", "seed=null", "seed (null): must have a value"),
    ("train", "seed=[1]", "seed ([1]): must be a whole number"),
    ("train", "seed=1,2", "seed (1,2): takes one value; add -m to run a job for each"),
    ("train", "seed=range(1,3)", "seed (range(1,3)): takes one value; add -m to run a job for each"),
    ("train", "seed.x=1", "seed.x: unknown key; seed has no keys"),
    ("train", "optimizer.kind=adam", "optimizer.kind (adam): must be one of: adamw, muon"),
    ("train", "optimizer.kind={a: b}", "optimizer.kind ({a: b}): must be one of: adamw, muon"),
    ("train", "precision.reduce=fp8", "precision.reduce (fp8): must be one of: fp32, bf16"),
    ("train", "logger.wandb=maybe", "logger.wandb (maybe): must be true or false"),
    ("train", "optimizer=null", "optimizer (null): must be one of: adamw, muon"),
    ("train", "launcher=3", "launcher (3): must be one of: local, slurm"),
    ("train", "launcher=local,slurm", "launcher (local,slurm): takes one value; add -m to run a job for each"),
    ("train", "~data.dir", "~data.dir: data.dir cannot be removed; give it another value"),
    ("train", "data=${run}", "data (${run}): refers to a key of another type; name one of the same type as data"),
    ("train", "afterwards.0=x", "afterwards.0: unknown key; afterwards has no keys"),
    ("train", "trainer=[null]", "trainer ([null]): must be one of: default"),
    ("train", "seed=${.}", "seed (${.}): `${` begins a reference to another key, as in ${run.name}; write \\${ for a"
     " literal ${"),
    ("train", "seed=99999999999999999999", "seed (99999999999999999999): must be below 2^63"),
    ("train", "~nosuch", "~nosuch: unknown key; --help lists the keys"),
    ("train", "nosuch=3", "nosuch: unknown key; --help lists the keys"),
    ("train", "ü=3", "ü: unknown key; --help lists the keys"),
    ("train", "=3", "'=3': neither KEY=VALUE nor an option; --help lists the keys"),
    ("train", "smoke", "'smoke': neither KEY=VALUE nor an option; --help lists the keys"),
    ("train", "", "'': neither KEY=VALUE nor an option; --help lists the keys"),
    ("train", "schedule.phases=3", "schedule.phases (3): must contain keys of its own; write"
     " schedule.phases={KEY: VALUE}"),
    (
        "train",
        "+schedule.phases.x={speed: 3}",
        f"schedule.phases.x.speed: unknown key; schedule.phases.x has: {PHASE_KEYS}",
    ),
    (
        "train",
        "+schedule.phases.x={tokens: 1}",
        "schedule.phases.x.blend: required; give it as schedule.phases.x.blend=VALUE",
    ),
    ("train", "+schedule.phases.x={tokens: y}", "schedule.phases.x.tokens (y): must be a whole number"),
    ("train", "launcher.setup=a", "launcher.setup (a): must be a list; write launcher.setup=[a]"),
    ("train", "launcher.setup={a: b}", "launcher.setup ({a: b}): must be a list; write launcher.setup=[VALUE]"),
    ("train", "launcher.environment=[A]", "launcher.environment ([A]): must contain keys of its own; write"
     " launcher.environment={KEY: VALUE}"),
    ("train", "optimizer.lr=${optimizer.nosuch}", "optimizer.lr (${optimizer.nosuch}): Interpolation key"
     r" 'optimizer.nosuch' not found; write \${ if it is text, not a reference"),
    ("train", "run.name=${x", "run.name (${x): `${` begins a reference to another key, as in ${run.name}; write"
     " \\${ for a literal ${"),
    ("train", "hydra.sweep.dir=ü", "hydra.sweep.dir (ü): cannot be read; put text in its own quotes, as in"
     " 'hydra.sweep.dir=\"TEXT\"'"),
    ("train", "--nosuch", f"--nosuch: no such option; {OPTIONS.format('nosuch=VALUE')}"),
    ("train", "--data.dir=x", f"--data.dir=x: no such option; {OPTIONS.format('data.dir=x')}"),
    ("train", "--cfg", "--cfg: needs a value; write --cfg VALUE"),
    ("train", "--cfg=jobs", "--cfg (jobs): no such choice; choose one of: job, hydra, all"),
    ("train", "--config-dir=/nosuch", "--config-dir (/nosuch): no such directory"),
    ("prepare", "corpus.files=x", "corpus.files (x): must be a list; write corpus.files=[x]"),
    ("prepare", "corpus.files=[", "corpus.files ([): must be a list; write corpus.files=[VALUE]"),
    ("prepare", "corpus.files=null", "corpus.files (null): must have a value"),
    ("prepare", "blend={max_epochs: 9}", "blend ({max_epochs: 9}): blend is null until an option is chosen; add"
     " blend=OPTION (debian, english, nemotron4, reference, sample)"),
    ("eval", "suite.tasks={a: b}", "suite.tasks ({a: b}): must be a list; write suite.tasks=[VALUE]"),
    ("report", "compare=a", "compare (a): must be a list; write compare=[a]"),
    ("data_adopt", "train=a:b", "train (a:b): must be a list; write train=[a:b]"),
    ("data_adopt", "train=[{a: b}]", "train ({a: b}): must be SOURCE:PATH with a source such as english/web"),
]  # fmt: skip
NEEDED = {
    "train": ["experiment=smoke"],
    "eval": ["model_dir=m"],
    "report": ["run=r"],
    "data_adopt": ["dir=d", "tokenizer_model=t"],
}


@pytest.mark.parametrize(("verb", "argument", "message"), MALFORMED, ids=lambda value: value[:40])
def test_what_is_wrong_is_one_line(capsys, verb, argument, message):
    assert status_of(verb, *NEEDED.get(verb, []), argument) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"nemotron4 {verb.replace('_', ' ')}: {message}\n")
