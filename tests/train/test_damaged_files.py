"""A damaged file among those that a report reads: one line that names it."""

import pytest
from smoke import smoke_job

from nemotron4_train.reporting.report import write_report
from nemotron4_train.run_directory import create

VALIDATION = "step,tokens,overall,english\n6,768,2.5,2.4\n"


@pytest.fixture
def runs(tmp_path):
    job = smoke_job("data", tmp_path)
    directories = [tmp_path / name for name in ("one", "two")]
    for directory in directories:
        create(directory, job, "", num_steps=12, state="complete")
        (directory / "validation.csv").write_text(VALIDATION)
    return job, *directories


NO_EVALUATION = "not the result of an evaluation ({}); evaluate again, or remove it"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "validation.csv",
            VALIDATION + "12,1536,2.4,nil\n",
            "line 3: english (nil): not a valid number; remove the line",
        ),
        (
            "validation.csv",
            VALIDATION + "\udcff,1,2,3\n",
            "not a table of metrics ('utf-8' codec can't decode byte 0xff in position 42: invalid start byte);"
            " restore or remove it",
        ),
        (
            "eval.json",
            "{",
            NO_EVALUATION.format(
                "JSONDecodeError('Expecting property name enclosed in double quotes: line 1 column 2 (char 1)')"
            ),
        ),
        ("eval.json", '{"bytes": 1}', NO_EVALUATION.format("KeyError('bits_per_byte')")),
        (
            "eval.json",
            '{"bits_per_byte": []}',
            NO_EVALUATION.format("""AttributeError("'list' object has no attribute 'get'")"""),
        ),
    ],
)
def test_a_report_names_the_damaged_file_of_a_compared_run(runs, file, content, said):
    job, one, two = runs
    (two / file).write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError) as error:
        write_report(one, job, {two: job})
    assert str(error.value) == f"{two}/{file}: {said}"
    assert not (one / "report.json").exists()
