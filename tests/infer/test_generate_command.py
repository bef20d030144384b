"""`nemotron4 generate`: what goes to standard output, what to standard error, and what is refused."""

import io
import re
import shutil
import signal
import subprocess
import sys

import pytest

from nemotron4_data import control_pieces
from nemotron4_infer import GenerateJob, SamplingConfig, generate, load_model_directory, run_generate
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.streaming import statistics_line
from nemotron4_model import DType
from nemotron4_model.hugging_face import tokenizer_json


def test_streams_the_prompt_and_the_text_of_the_tokens(model_dir, capsys):
    sampling = SamplingConfig(max_new_tokens=30)
    loaded = load_model_directory(str(model_dir), DType.fp32)
    eos_id = loaded.tokenizer.eos_id
    # The prompt is read as the start of a document: after an end-of-sequence token.
    tokens = list(generate(loaded.model, [eos_id, *loaded.tokenizer.encode("the red")], sampling, eos_id))
    run_generate(GenerateJob(model_dir=str(model_dir), prompt="the red", sampling=sampling))
    out, err = capsys.readouterr()
    assert out == "the red" + loaded.tokenizer.decode(tokens) + "\n"
    *plan, line = err.splitlines()
    assert [text.split()[0] for text in plan] == ["weights", "workspace", "cache", "free"]
    assert re.fullmatch(r"\d+ tokens, first after \d+\.\d\d s, then \d+\.\d tokens/s \([^)]+\)", line)
    assert line.startswith(f"{len(tokens)} tokens")


def test_a_prompt_that_spells_a_control_piece_is_text(model_dir, capsys):
    loaded = load_model_directory(str(model_dir), DType.fp32)
    control = {loaded.tokenizer.pad_id, loaded.tokenizer.bos_id, loaded.tokenizer.eos_id}
    prompt = "</s><s>the<pad>"
    assert not control & set(loaded.tokenizer.encode(prompt))
    run_generate(GenerateJob(model_dir=str(model_dir), prompt=prompt, sampling=SamplingConfig(max_new_tokens=1)))
    assert capsys.readouterr().out.startswith(prompt)


def test_export_and_encoder_have_one_rule_for_turn_markers():
    assert control_pieces._MARKER.pattern == tokenizer_json._MARKER.pattern


def test_text_is_flushed_as_it_comes(model_dir, monkeypatch):
    writes = []

    class Recorder:
        def write(self, text):
            writes.append(["", text])

        def flush(self):
            writes[-1][0] = "flushed"

    monkeypatch.setattr(sys, "stdout", Recorder())
    sampling, engine = SamplingConfig(max_new_tokens=5), EngineConfig(prompt_lookup=False)
    run_generate(GenerateJob(model_dir=str(model_dir), prompt="the", sampling=sampling, engine=engine))
    assert len(writes) == 7  # prompt, five tokens, end of line
    assert all(state == "flushed" for state, _ in writes)


def test_an_interrupt_ends_the_line_and_reports(model_dir, capsys, monkeypatch):
    write, written = sys.stdout.write, []

    def write_until_interrupted(text):
        written.append(text)
        if len(written) == 4:  # the prompt, and the third token
            signal.raise_signal(signal.SIGINT)
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", write_until_interrupted)
    sampling, engine = SamplingConfig(max_new_tokens=9), EngineConfig(prompt_lookup=False)
    run_generate(GenerateJob(model_dir=str(model_dir), prompt="the", sampling=sampling, engine=engine))
    out, err = capsys.readouterr()
    assert out == "".join(written[:3]) + "\n"
    assert err.splitlines()[-1].startswith("3 tokens")
    assert err.endswith("(interrupted)\n")


def test_bf16_weights_generate(model_dir, capsys):
    run_generate(GenerateJob(model_dir=str(model_dir), prompt="the", dtype=DType.bf16))
    assert capsys.readouterr().out.startswith("the")


@pytest.mark.parametrize(
    ("arrivals_seconds", "line"),
    [
        ([], "0 tokens (why)"),
        ([0.25], "1 token, first after 0.25 s (why)"),
        ([0.25, 0.35, 0.45], "3 tokens, first after 0.25 s, then 10.0 tokens/s (why)"),
    ],
)
def test_statistics(arrivals_seconds, line):
    assert statistics_line(arrivals_seconds, "why") == line


def refusal(model, prompt="the"):
    with pytest.raises(ValueError) as caught:
        run_generate(GenerateJob(model_dir=str(model), prompt=prompt))
    return str(caught.value)


def test_a_missing_directory_is_named(tmp_path):
    assert refusal(tmp_path / "none") == (
        f"model_dir ({tmp_path / 'none'}): is not a directory; give the export of a run, e.g. runs/demo/latest/export"
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_missing_file_is_named(model_dir, tmp_path, name):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / name).unlink()
    assert refusal(broken) == (
        f"model_dir ({broken}): has no {name}; a model directory contains config.json, *.safetensors and "
        "tokenizer.model; give the export of a run, e.g. runs/demo/latest/export"
    )


def test_missing_weights_are_one_line(model_dir, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    for path in broken.glob("*.safetensors"):
        path.unlink()
    message = refusal(broken)
    assert str(broken) in message
    assert "\n" not in message


def test_a_prompt_longer_than_the_context_is_refused(model_dir, capsys):
    message = refusal(model_dir, "the red fox " * 60)
    assert re.fullmatch(
        r"prompt \(\d+ tokens\): must be shorter than the model's context of 64 tokens; shorten .*", message
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": ""},
            "prompt (''): must not be empty; give it as 'prompt=Once upon a time', or as prompt_file=PATH"
            " (- is standard input)",
        ),
        (
            {"prompt": "a", "prompt_file": "b"},
            "prompt ('a'): cannot be combined with prompt_file; give it as 'prompt=Once upon a time', or as"
            " prompt_file=PATH (- is standard input)",
        ),
        ({"prompt_file": ""}, "prompt_file (''): must name a file; - is standard input"),
        ({"prompt": "caf\udce9"}, r"prompt ('caf\udce9'): not UTF-8 at character 3; correct it"),
    ],
)
def test_a_prompt_that_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GenerateJob(model_dir="m", **fields)


def test_a_prompt_from_a_file_or_standard_input(model_dir, tmp_path, capsys, monkeypatch):
    text = "the ${red} 'fox'!\n\n it is"
    path = tmp_path / "prompt.txt"
    path.write_bytes(text.encode() + b"\r\n")
    sampling = SamplingConfig(max_new_tokens=3)
    outputs = []
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for fields in ({"prompt": text}, {"prompt_file": str(path)}, {"prompt_file": "-"}):
        run_generate(GenerateJob(model_dir=str(model_dir), sampling=sampling, **fields))
        outputs.append(capsys.readouterr().out)
    assert outputs[0].startswith(text)
    assert set(outputs) == {outputs[0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "prompt_file ({}): is empty; write the prompt into it"),
        (b"caf\xe9", "prompt_file ({}): not UTF-8 at byte 3; convert it"),
    ],
)
def test_a_file_that_holds_no_prompt(tmp_path, content, message):
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        GenerateJob(model_dir="m", prompt_file=str(path)).text()
    assert str(error.value) == message.format(path)


def test_describing_the_job_does_not_import_torch():
    script = "import sys; import nemotron4_infer.streaming, nemotron4_infer.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
