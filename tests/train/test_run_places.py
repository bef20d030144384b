"""Where runs are written: never into a folder of others, never outside the root, never under advice that is refused."""

import dataclasses
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from smoke import smoke_job

from nemotron4_data.blend import BlendConfig, Distribution
from nemotron4_train.checkpoints.export import ExportJob
from nemotron4_train.checkpoints.reading import CheckpointState, checkpoint_directory
from nemotron4_train.checkpoints.writing import CheckpointWriter
from nemotron4_train.job import RunConfig
from nemotron4_train.run_directory import choose_directory, create, exclusive


def message_of(function, *arguments, **named):
    with pytest.raises(ValueError) as error:
        function(*arguments, **named)
    return str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dir": ""}, "run.dir (''): must name a directory; leave it out for <run.root>/<run.name>/<time>"),
        ({"root": ""}, "run.root (''): must name a directory, such as runs"),
        *(
            ({"name": name}, f"run.name ({name!r}): must stay below run.root; set run.root=DIR to write elsewhere")
            for name in ("..", "", ".", "a/../../b", "/tmp/x")
        ),
    ],
)
def test_a_run_stays_where_runs_are(changed, message):
    assert message_of(RunConfig, **changed) == message


def test_an_export_that_an_unset_variable_leaves_without_a_place():
    assert message_of(ExportJob, run="r", dir="") == ("dir (''): must name a directory; leave it out for <run>/export")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/job.yaml").write_text("mine")
    job = smoke_job(tmp_path / "corpus", tmp_path, run=RunConfig(dir=str(tmp_path / "thesis")))
    assert message_of(choose_directory, job, 12) == (
        f"run.dir ({tmp_path}/thesis): contains job.yaml, which this program did not create:"
        " give a directory that is empty or does not exist"
    )
    job = smoke_job(tmp_path / "corpus", tmp_path, run=RunConfig(dir=str(tmp_path / "corpus/run")))
    assert message_of(choose_directory, job, 12) == (
        f"run.dir ({tmp_path}/corpus/run): is inside data.dir ({tmp_path}/corpus): choose another run.dir"
    )
    with exclusive(tmp_path / "begun"):  # all that a launch killed at its start has written
        job = smoke_job(tmp_path / "corpus", tmp_path, run=RunConfig(dir=str(tmp_path / "begun")))
        assert choose_directory(job, 12) == tmp_path / "begun"


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_latest_replaces_a_link_only(tmp_path, kind):
    latest = tmp_path / "smoke/latest"
    latest.parent.mkdir()
    latest.write_text("mine") if kind == "file" else latest.mkdir()
    job = smoke_job(tmp_path / "corpus", tmp_path)
    assert message_of(create, choose_directory(job, 12), job, "", 12) == (
        f"run.name (smoke): {latest} is not a symbolic link; move it elsewhere"
    )
    assert [path.name for path in latest.parent.iterdir()] == ["latest"]


def with_c_sharp(job, weight):
    distribution = Distribution(weights={"english": 1 - weight, "code/c#": weight})
    return dataclasses.replace(job, blend=BlendConfig(distributions={**job.blend.distributions, "extra": distribution}))


def test_advice_is_what_the_command_takes(tmp_path):
    run = RunConfig(dir=str(tmp_path / "run"))
    job = with_c_sharp(smoke_job(tmp_path / "corpus", tmp_path, run=run), 0.1)
    create(tmp_path / "run", job, "", 12)
    message = message_of(choose_directory, dataclasses.replace(job, seed=7), 12)
    assert message == (
        f"run.dir ({tmp_path}/run): belongs to another job: seed was 1234, is 7;"
        " repeat the overrides it was started with, or choose another run.dir"
    )
    changed = with_c_sharp(job, 0.2)
    message = message_of(choose_directory, changed, 12)
    extra = "blend.distributions.extra.weights"
    assert message.endswith(f""" continue anyway with 'run.allow_changed=["{extra}.code/c#",{extra}.english]'""")
    (override,) = shlex.split(message.partition("continue anyway with ")[2])
    allowed = OverridesParser.create().parse_override(override).value()
    changed = dataclasses.replace(changed, run=dataclasses.replace(run, allow_changed=list(allowed)))
    assert choose_directory(changed, 12) == tmp_path / "run"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_checkpoint_that_holds_a_file_of_the_user_is_kept(tmp_path, capsys):
    import checkpoint_worker as worker

    writer = CheckpointWriter(tmp_path, keep=1)
    for step in (1, 2, 3):
        writer.save(CheckpointState(step=step, tokens=0), *worker.build(None), b"{}")
        writer.wait()
        if step == 1:
            (checkpoint_directory(tmp_path, 1) / "notes.txt").write_text("mine")
            (tmp_path / "checkpoints/step-00000009.partial").mkdir()
            (tmp_path / "checkpoints/step-00000009.partial/notes.txt").write_text("mine")
    writer.close()
    kept = sorted(str(path.relative_to(tmp_path / "checkpoints")) for path in tmp_path.rglob("notes.txt"))
    assert kept == ["step-00000001/notes.txt", "step-00000009.partial/notes.txt"]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        *("step-00000001", "step-00000003", "step-00000009.partial"),
    }
    said = f"kept {checkpoint_directory(tmp_path, 1)}, because notes.txt in it is not part of the checkpoint"
    assert capsys.readouterr().err.splitlines() == [said, said]
