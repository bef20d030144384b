"""tools/bench/gpu_session.py at toy size on a CPU: every check runs, can fail, and gives way to a deadline."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench"
PAGE = ROOT / "docs" / "performance.md"
# Checks that a CPU cannot make; torchao and transformers may be absent too.
NOT_ON_A_CPU = {
    *("cudnn_and_flash", "memory_of_packed_documents", "float8", "synchronisations", "compiled_float8"),
}


def run(*words: str) -> tuple[int, list[dict], str]:
    """The status, the records printed, and all that was printed."""
    hidden = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=os.environ | hidden)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, records, done.stdout + done.stderr


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", BENCH / "gpu" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_passes_at_toy_size(prepared, tmp_path):
    output = tmp_path / "results.json"
    options = ("--device", "cpu", "--compile-backend", "aot_eager", "--corpus", str(prepared), "--output", str(output))
    status, records, said = run(str(BENCH / "gpu_session.py"), *options)
    assert status == 0, said
    ended = {record["check"]: record["status"] for record in records}
    refused = {name for name, found in ended.items() if found == "not applicable"}
    assert refused - {"export_in_transformers", "decode_int8", "decode_int4", "decode_fp8"} == NOT_ON_A_CPU
    assert {found for name, found in ended.items() if name not in NOT_ON_A_CPU} <= {"passed", "not applicable"}
    assert all(record["reason"] for record in records if record["status"] == "not applicable")
    document = json.loads(output.read_text())
    assert document["checks"] == records
    parts = {record["part"] for record in records}
    assert {"kernels", "gradients", "compiled", "loop", "training_compiled", "inference", "engine", "mesh"} <= parts
    shown = load("page").render([document])
    assert "not run on a GPU" not in shown.split("elsewhere")[0]
    assert " of the bandwidth |" in shown


def test_a_model_that_is_wrong_fails():
    """relu in the place of its square: what is compared with itself passes, what is compared with fp64 fails."""
    program = (
        f"import sys; sys.path.insert(0, {str(BENCH)!r}); import gpu_session; import nemotron4_model.transformer as t;"
        "t.squared_relu_ = lambda x: x.relu();"
        "sys.exit(gpu_session.main(['--device', 'cpu', '--only', 'gradients', '--corpus', '.']))"
    )
    status, records, said = run("-c", program)
    failed = {record["check"] for record in records if record["status"] == "failed"}
    assert status == 1, said
    assert failed == {"slice_in_fp32", "slice_in_bf16"}


def test_a_check_that_there_is_no_time_for_is_not_run():
    options = ("--device", "cpu", "--deadline", "2", "--only", "kernels,gradients", "--corpus", ".")
    status, records, said = run(str(BENCH / "gpu_session.py"), *options)
    assert status == 0, said
    assert {record["status"] for record in records} == {"not run: time"}


def test_without_a_gpu_it_is_skipped():
    status, records, said = run(str(BENCH / "gpu_session.py"))
    assert (status, records) == (0, [])
    assert "skipped: no GPU" in said


def test_a_process_that_dies_or_hangs_costs_one_check(tmp_path):
    program = f"""
import os, sys, time
sys.path.insert(0, {str(BENCH)!r})
from pathlib import Path
from gpu.frame import Check, Part, run_parts
class Context:
    def device_is_sound(self):
        return False
def dies(context):
    print("last words", flush=True)
    os.abort()
def raises(context):
    raise RuntimeError("a fault of the device")
def is_fine(context):
    return {{"pid": os.getpid()}}
def hangs(context):
    time.sleep(60)
checks = [Check(check, 0.1) for check in (is_fine, dies, raises, is_fine, hangs, is_fine)]
run_parts([Part("part", checks)], Context(), time.monotonic() + 2.5, Path({str(tmp_path / "log")!r}), True)
"""
    _, records, said = run("-c", program)
    assert [record["status"] for record in records] == [
        *("passed", "failed", "failed", "passed", "not run: time", "not run: time")
    ], said
    assert "last words" in records[1]["reason"]
    assert records[0]["figures"] != records[3]["figures"]  # a new process, after the fault


def test_the_page_shows_the_results_that_there_are():
    text = PAGE.read_text(encoding="utf-8")
    assert load("page").filled(text, BENCH / "results") == text
