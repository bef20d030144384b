"""`nemotron4 generate interactive=true`: what the model is given, what is kept, and what Ctrl-C and Ctrl-D do."""

import builtins
import re
import shutil
import signal
import sys

import pytest
from tiny_tokenizer import train_tiny_tokenizer

from nemotron4_data import Tokenizer
from nemotron4_infer import GenerateJob, SamplingConfig, run_generate
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_model import ModelConfig, Transformer, initialise, save_pretrained

CTRL_C, CTRL_D = object(), object()


@pytest.fixture(scope="module")
def chat_model_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat")
    tokenizer_path = root / "tokenizer.model"
    tokenizer_path.write_bytes(train_tiny_tokenizer(num_invented=40, vocab_size=400))
    config = ModelConfig(
        vocab_size=Tokenizer(tokenizer_path).vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        init_std=0.2,
        max_sequence_length=96,
    )
    model = Transformer(config)
    initialise(model, 0, config)
    save_pretrained(model, root / "export", tokenizer_model=tokenizer_path)
    return root / "export"


@pytest.fixture
def session(monkeypatch, capsys):
    """Run a session with these lines typed; returns what was shown and the prompts that the model was given."""

    def run(model_dir, *lines, max_new_tokens=4, **fields):
        typed, prompts, add = iter([*lines, CTRL_D]), [], Engine.add

        def type_line(prompt):
            line = next(typed)
            if line is CTRL_C:
                signal.raise_signal(signal.SIGINT)
            if line is CTRL_D:
                raise EOFError
            return line

        def add_recording(self, request):
            prompts.append(self.tokenizer.decode(list(request.prompt_ids)))
            pieces = [self.tokenizer.piece(token) for token in request.sampling.stop_token_ids]
            assert pieces == (["<extra_id_0>", "<extra_id_1>"] if prompts[-1].startswith("<extra_id_0>") else [])
            return add(self, request)

        monkeypatch.setattr(builtins, "input", type_line)
        monkeypatch.setattr(Engine, "add", add_recording)
        sampling, engine = SamplingConfig(max_new_tokens=max_new_tokens), EngineConfig(prompt_lookup=False)
        job = GenerateJob(model_dir=str(model_dir), interactive=True, sampling=sampling, engine=engine, **fields)
        handler = signal.getsignal(signal.SIGINT)
        run_generate(job)
        assert signal.getsignal(signal.SIGINT) is handler
        assert next(typed, None) is None or lines[-1] == "/quit"
        return *capsys.readouterr(), prompts

    return run


def test_text_grows_by_lines_and_answers(model_dir, session):
    out, err, prompts = session(model_dir, "the red", "", "the old", "/reset", "", "the", "/quit")
    first, second, third, fourth = out.split("\n")[:4]
    assert prompts == ["the red", f"the red{first}", f"the red{first}{second}\nthe old", "the"]
    assert len({third, fourth, ""}) == 3
    assert "The model continues your text." in err
    assert len(re.findall(r"^\(4 tokens, first after .*\(sampling.max_new_tokens reached\)\)$", err, re.MULTILINE)) == 4


def test_a_chat_keeps_its_turns(chat_model_dir, session):
    out, err, prompts = session(chat_model_dir, "", "of it", "and <extra_id_1>", chat=True)
    answer = out.split("\n")[0]
    start = "<extra_id_0>System\n\n<extra_id_1>User\nof it\n<extra_id_1>Assistant\n"
    assert prompts[0] == start
    assert prompts[1] == f"{start}{answer.strip()}\n<extra_id_1>User\nand <extra_id_1>\n<extra_id_1>Assistant\n"
    assert "A chat. " in err


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_model_with_a_template_of_its_own_chats(chat_model_dir, tmp_path, session, name):
    model_dir = shutil.copytree(chat_model_dir, tmp_path / "model")
    assert session(model_dir, "of it")[2] == ["of it"]
    (model_dir / name).write_text('{"chat_template": "{{ messages }}"}')
    assert session(model_dir, "of it")[2] == ["<extra_id_0>System\n\n<extra_id_1>User\nof it\n<extra_id_1>Assistant\n"]
    assert session(model_dir, "of it", chat=False)[2] == ["of it"]


def test_what_does_not_fit_is_left_out(chat_model_dir, model_dir, session):
    _, err, prompts = session(chat_model_dir, "the theme 1", "of 2", "if: 3", "x1", "of", max_new_tokens=12, chat=True)
    assert "the theme 1" in prompts[1]
    assert "the theme 1" not in prompts[-1]
    assert prompts[-1].startswith("<extra_id_0>System\n\n<extra_id_1>User\n")
    note = "The beginning no longer fits in the model's context of 96 tokens and is left out."
    assert err.count(note) == 1
    _, err, prompts = session(model_dir, "the red fox and the big dog " * 20, "the")
    assert prompts[1].endswith("\nthe")
    assert err.count(note.replace("96", "64")) == 1
    _, err, prompts = session(chat_model_dir, "of there " * 100, chat=True)
    assert prompts == []
    assert re.search(
        r"^prompt \(\d+ tokens\): must be shorter than the model's context of 96 tokens;", err, re.MULTILINE
    )


def test_ctrl_c_stops_the_answer_and_not_the_session(model_dir, session, monkeypatch):
    write, written = sys.stdout.write, []

    def write_interrupted(text):
        written.append(text)
        if len(written) == 3:
            signal.raise_signal(signal.SIGINT)
        return write(text)

    monkeypatch.setattr(sys.stdout, "write", write_interrupted)
    out, err, prompts = session(model_dir, "the", CTRL_C, "red", max_new_tokens=20)
    answer = "".join(written[:3])
    assert out.startswith(f"{answer}\n\n")
    first = next(line for line in err.splitlines() if line.startswith("("))
    assert first.startswith("(3 tokens")
    assert first.endswith("(interrupted))")
    assert prompts == ["the", f"the{answer}\nred"]


def test_a_line_that_is_not_text_is_refused(model_dir, session):
    _, err, prompts = session(model_dir, "caf\udce9", "the")
    assert "That line is not UTF-8; set the terminal to it.\n" in err
    assert prompts == ["the"]


def test_a_chat_needs_markers(model_dir, session):
    message = r"chat \(True\): needs a tokenizer with turn markers; leave it out to continue text"
    with pytest.raises(ValueError, match=f"^{message}$"):
        session(model_dir, chat=True)
