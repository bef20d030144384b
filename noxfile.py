"""Each thing that the project promises has a session that checks it: `python -m nox -s SESSION`.

demo and tests need only Python 3.11 and nox; versions come from constraints.txt, the packages and their extras from
requirements.txt.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
PACKAGES = re.findall(r"^-e \./packages/(\w+)$", (ROOT / "requirements-train.txt").read_text(), re.MULTILINE)
EXTRAS = dict(re.findall(r"^nemotron4-(\w+)(\[.+\])$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
TEST_TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
SERVER_TEST_TOOLS = ("openai", "schemathesis", "selenium", "tenacity")  # tenacity: lm-eval's local-completions
HARNESS_TEST_TOOLS = ("accelerate",)  # lm-eval's hf backend
ALL_TEST_TOOLS = (
    *TEST_TOOLS,
    *SERVER_TEST_TOOLS,
    *HARNESS_TEST_TOOLS,
    "hydra-optuna-sweeper",
    "torchao",
    "transformers",
)
BENCH_PEERS = (
    ("--no-deps", "litgpt==0.5.13"),  # without the versions of other packages that it asks for
    ("--no-deps", "datasketch==2.0.0"),
    (
        "--no-deps",
        "datatrove==0.10.1",
        "loguru==0.7.3",
        "humanize",
    ),  # for an older xxhash, without which it hashes by SHA-1
    ("--no-cache-dir", "gguf==0.19.0", "llama-cpp-python==0.3.36"),  # built here, some 5 minutes the first time
)
"""What stands beside ours in `bench` and nothing else needs: the words of a `pip install` each."""
CHECK_TOOLS = ("ruff", "mypy", "import-linter", "yamllint")
COMMIT_TOOLS = ("pre-commit", "pre-commit-hooks")
DOCS_TOOLS = ("sphinx", "myst-parser", "furo", "sphinx-copybutton")
BUILD_TOOLS = ("hatchling", "editables", "setuptools")  # setuptools: antlr4-python3-runtime has no wheel
LONG_TESTS = (
    *("test_bad_steps", "test_checkpoint", "test_dedup", "test_dedup_crowds", "test_dedup_resume", "test_evaluation"),
    *(
        "test_executor",
        "test_export",
        "test_gpu_session",
        "test_isoflop",
        "test_legs",
        "test_linear",
        "test_own_domains",
        "test_parallel",
        "test_parallel_generation",
    ),
    *("test_report", "test_resume", "test_sample", "test_sandbox", "test_sweeps", "test_toys", "test_training"),
)
"""Files that `quick` leaves out beside e2e and slurm: those with the longest tests, by `pytest --durations`."""
TRY_NEXT = (
    "generate model_dir=runs/demo/latest/export 'prompt=Once upon a time'",
    "serve model_dir=runs/demo/latest/export",
    "plan experiment=nemotron4_15b",
    "train experiment=demo model=nano_1m topology=cpu_2x1 schedule=smoke",
)
"""Commands that `demo` suggests at its end; each takes a minute or less on what it made, or serves until Ctrl-C."""


def install(
    session: nox.Session, *packages: str, tools: tuple[str, ...] = (), constraints: str = "constraints.txt"
) -> None:
    """Install packages of this repository, and tools, in the tested versions."""
    session.install("-c", constraints, *BUILD_TOOLS)
    paths = [word for name in packages for word in ("-e", f"packages/{name}{EXTRAS.get(name, '')}")]
    session.install("-c", constraints, "--no-build-isolation", *paths, *tools)


def packages_to_test(name: str) -> list[str]:
    """A package, our packages that it depends on, and, if it has verbs, config: their tests compose real jobs."""
    if name == "config":
        return PACKAGES
    project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())["project"]
    found = [name] + ["config"] * ("nemotron4.commands" in project.get("entry-points", {}))
    for dependency in project["dependencies"]:
        if own := re.fullmatch(r"nemotron4-(\w+)", dependency):
            found += packages_to_test(own[1])
    return list(dict.fromkeys(found))


@nox.session
def demo(session: nox.Session) -> None:
    """From raw text to generated text: prepare, train, continue, export, evaluate, generate, report."""
    install(session, *PACKAGES)
    nemotron4 = ("python", "-m", "nemotron4_config.main")
    run = "runs/demo/latest"
    session.run(*nemotron4, "prepare", "corpus=sample")
    session.run(*nemotron4, "train", "experiment=demo", *session.posargs)
    session.run(*nemotron4, "export", f"run={run}")
    session.run(*nemotron4, "eval", f"model_dir={run}/export", "suite=demo")
    session.run(*nemotron4, "generate", f"model_dir={run}/export", "prompt='In the beginning'")
    session.run(*nemotron4, "report", f"run={run}")
    program = os.path.relpath(os.path.join(session.bin, "nemotron4"))
    session.log("\n  ".join(("what to try next:", *(f"{program} {line}" for line in TRY_NEXT))))


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that CI runs, in one environment."""
    install(session, *PACKAGES, tools=(*ALL_TEST_TOOLS, *CHECK_TOOLS, "ray"))
    # A test reads our shards with it. Its file format needs numpy and torch; its other dependencies are for training.
    session.install("-c", "constraints.txt", "--no-deps", "megatron-core")
    run_checks(session)
    if missing := install_slurm(session):
        session.warn(f"tests/slurm will be skipped: {missing}")
    parallel = ("-m", "not slow", "-n", "2", "--dist", "loadfile")
    session.run("pytest", "-q", *parallel, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def quick(session: nox.Session) -> None:
    """The inner loop, under 3 minutes on two cores: `lint` and the fast tests; `nox -R` skips installing."""
    install(session, *PACKAGES, tools=(*ALL_TEST_TOOLS, *CHECK_TOOLS))
    run_checks(session)
    folders = ("--ignore=tests/e2e", "--ignore=tests/slurm")
    left_out = (*folders, *(f"--ignore-glob=*/{name}.py" for name in LONG_TESTS))
    parallel = ("-m", "not slow", "-n", "2", "--dist", "loadfile")
    session.run("pytest", "-q", *left_out, *parallel, *session.posargs, env={"OMP_NUM_THREADS": "1"})


def run_checks(session: nox.Session) -> None:
    """Lint, format, YAML, import rules and types."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check", "--quiet")
    session.run("yamllint", "--strict", "conf")
    session.run("lint-imports", "--no-cache")
    for name in PACKAGES:
        session.run("mypy", f"packages/{name}/src")


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, format, YAML, import rules and types, as in `tests`."""
    install(session, *PACKAGES, tools=CHECK_TOOLS)
    run_checks(session)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site in build/docs; a broken link, a missing heading or an unlisted page is an error."""
    session.install("-c", "constraints.txt", *DOCS_TOOLS)
    options = ("--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "-c", "docs", "-d", "build/doctrees")
    session.run("sphinx-build", *options, *session.posargs, ".", "build/docs")
    session.log("open build/docs/index.html")


@nox.session
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def test(session: nox.Session, package: str) -> None:
    """One package's tests with only that package (and what it depends on) installed."""
    packages = packages_to_test(package)
    optuna = ("hydra-optuna-sweeper",) if "config" in packages else ()
    tools = (*TEST_TOOLS, *optuna, "transformers", "sentencepiece", "protobuf")
    install(session, *packages, tools=tools)
    session.run("pytest", "-q", f"tests/{package}", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def e2e(session: nox.Session) -> None:
    """End to end by command line, and the equivalence contract: however a job is run, it trains the same model."""
    install(session, *PACKAGES, tools=ALL_TEST_TOOLS)
    session.run("pytest", "-q", "tests/e2e", "tests/bench/test_toys.py", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def slurm(session: nox.Session) -> None:
    """Runs on a real Slurm: it is installed if absent (Debian, as root), started, tested and stopped."""
    if missing := install_slurm(session):
        session.skip(missing)
    install(session, *PACKAGES, tools=ALL_TEST_TOOLS)
    session.run("pytest", "-q", "tests/slurm", *session.posargs, env={"OMP_NUM_THREADS": "1"})


def install_slurm(session: nox.Session) -> str | None:
    """Install Slurm if absent; returns the reason why that is impossible here, or None if Slurm is installed."""
    daemons = ("munged", "slurmctld", "slurmd", "sbatch")
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    if os.geteuid() != 0:
        return "Slurm's daemons start as root, and this is not root"
    for words in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", "slurm-wlm", "munge")):
        if all(shutil.which(name, path=path) for name in daemons):
            return None
        if shutil.which("apt-get") is None:
            return "no Slurm, and no apt-get to install slurm-wlm and munge with"
        any_status, quiet = range(256), {"DEBIAN_FRONTEND": "noninteractive"}
        session.run(
            "timeout", "180", "apt-get", *words, external=True, success_codes=any_status, silent=True, env=quiet
        )
    absent = [name for name in daemons if shutil.which(name, path=path) is None]
    return f"apt-get could not install {', '.join(absent)}" if absent else None


@nox.session
def code(session: nox.Session) -> None:
    """Programs of every language, and each reference of HumanEval and MBPP, in the sandbox: some 10 minutes.

    As root on Debian it installs absent toolchains; TypeScript's comes from npm, and Julia's must be there already.
    """
    install(session, *packages_to_test("eval"), tools=TEST_TOOLS)
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # programs run as another user
        install_toolchains(session, directory)
        path = os.pathsep.join((os.environ["PATH"], f"{directory}/node_modules/.bin"))
        environment = {"OMP_NUM_THREADS": "1", "PATH": path, "NEMOTRON4_TEST_FETCH": "true"}
        session.run("pytest", "-q", "tests/eval/code", *session.posargs, env=environment)


def install_toolchains(session: nox.Session, directory: str) -> None:
    """Bring what `nemotron4_eval.code.languages` names; the tests of a language that stays without are skipped."""
    script = (
        "from nemotron4_eval.code.languages import LANGUAGES as all\n"
        "print(*{tool.debian for each in all.values() for tool in each.tools.values()})"
    )
    packages = set(str(session.run("python", "-c", script, silent=True, log=False)).split())
    if shutil.which("npm"):
        packages.remove("node-typescript")
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for words in (("update", "-q"), ("install", "-q", "-y", "--no-install-recommends", *sorted(packages))):
            session.run("apt-get", *words, external=True, silent=True, env={"DEBIAN_FRONTEND": "noninteractive"})
    else:
        session.warn(f"toolchains are not installed: that needs root and apt-get (it would be {sorted(packages)})")
    if shutil.which("tsc") is None and shutil.which("npm"):
        session.run("npm", "install", "--silent", "--prefix", directory, "typescript@5.9.3", external=True)


@nox.session(python=False)
def gpu(session: nox.Session) -> None:
    """Check and measure this machine's GPU, in under 8 minutes; skipped without one, or without torch. Nothing is
    installed: it uses the `python3` on the PATH, because a machine with a GPU has the torch that fits its driver."""
    script = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    if "True" not in str(session.run("python3", "-c", script, external=True, silent=True, log=False)):
        session.skip("no GPU that torch could use: the python3 on the PATH has no torch")
    session.run("python3", "tools/bench/gpu_session.py", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure everything on this machine, and write docs/performance.md: under 40 minutes on two quiet cores. `-- NAME`
    runs one benchmark, `-- --help` lists them; a peer that does not install is left out of the figures."""
    install(session, *PACKAGES, tools=ALL_TEST_TOOLS)
    for words in BENCH_PEERS:
        try:
            # Else llama.cpp is built without AVX-512, and a wheel that pip built for nox -s gguf would be taken.
            session.install("-c", "constraints.txt", *words, env={"CMAKE_ARGS": "-DGGML_NATIVE=ON"})
        except nox.command.CommandFailed:
            session.warn(f"left out, as it does not install: {words[-1]}")
    session.run("python", "tools/bench/suite.py", *session.posargs)


@nox.session
def curation_reference(session: nox.Session) -> None:
    """Our heuristics against datatrove's on the shipped sample; separate, as datatrove needs an older xxhash."""
    install(session, *packages_to_test("data"), tools=TEST_TOOLS)
    session.install("datatrove==0.10.1", "regex", "nltk", "spacy==3.8.18", "xxhash<4")
    session.run("pytest", "-q", "tests/data/curation/test_datatrove.py", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def gguf(session: nox.Session) -> None:
    """An export as a GGUF file, read by llama.cpp, which is built here: some 5 minutes, and it needs a C++ compiler."""
    install(session, *packages_to_test("infer"), tools=TEST_TOOLS)
    session.install("gguf==0.19.0", "llama-cpp-python==0.3.36")
    session.run("pytest", "-q", "tests/infer/test_llama_cpp.py", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
@nox.parametrize("version", [nox.param(version, id=version) for version in ("4.44.2", "4.57.6", "5.0.0")])
def compat_export(session: nox.Session, version: str) -> None:
    """Exports are read by the versions of transformers that their README.md names: the oldest, and those around 5."""
    install(session, *packages_to_test("model"), tools=(*TEST_TOOLS, "sentencepiece"))
    session.install(f"transformers=={version}")
    # Old versions warn about this torch; only their results are tested.
    quiet = ("-W", "ignore::FutureWarning", "-W", "ignore::DeprecationWarning")
    tests = ("tests/model/test_export_versions.py", "tests/model/test_hugging_face.py")
    chosen = ("-k", "test_export_versions or agrees_with_sentencepiece")
    session.run("pytest", "-q", *quiet, *chosen, *tests, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(python="3.12")
def compat(session: nox.Session) -> None:
    """Model, training and inference on the torch and Python of many GPU machines, 2.11 and 3.12, here on the CPU.

    Needs Python 3.12. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu takes the smaller torch without CUDA.
    """
    pinned = (ROOT / "constraints.txt").read_text()
    others = re.sub(r"^(torch|setuptools)==.*\n", "", pinned, flags=re.MULTILINE)
    constraints = Path(session.virtualenv.location, "constraints.txt")
    constraints.write_text(f"{others}torch==2.11.0\nsetuptools<82\n")  # that torch refuses a newer setuptools
    install(session, *PACKAGES, tools=ALL_TEST_TOOLS, constraints=str(constraints))
    parallel = ("-m", "not slow", "-n", "2", "--dist", "loadfile")
    folders = ("tests/model", "tests/train", "tests/infer")
    session.run("pytest", "-q", *folders, *parallel, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def dev(session: nox.Session) -> None:
    """An editable .venv with every tool, for working on the project."""
    session.run(sys.executable, "-m", "venv", ".venv", external=True)
    pip = os.path.join(".venv", "bin", "pip")
    tools = (*BUILD_TOOLS, *ALL_TEST_TOOLS, *CHECK_TOOLS, *COMMIT_TOOLS, "ray", "nox")
    session.run(pip, "install", "-c", "constraints.txt", *tools, external=True)
    session.run(pip, "install", "--no-build-isolation", "-r", "requirements.txt", external=True)


@nox.session(name="install")
def install_as_told(session: nox.Session) -> None:
    """README's install commands exactly as written, each in a fresh environment on a copy of the tree; then README's
    first `nemotron4` commands, in the first of these environments."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Install\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```\w*\n(.*?)^```", section[1] if section else "", re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    told = [*lines, *re.findall(r"`([^`\n]+)`", section[1] if section else "")]
    # Commands with options, such as another index for torch, are for other machines.
    is_install = re.compile(r"(python -m |uv )?pip install -r requirements[\w-]*\.txt").fullmatch
    installs = list(dict.fromkeys(line for line in told if is_install(line)))
    commands = [line for line in lines if line.startswith("nemotron4 ")]
    if not installs or not installs[0].endswith(" requirements.txt") or not commands:
        session.error("README.md (## Install): has no `pip install -r requirements.txt`, or no `nemotron4` command")
    with TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        names = session.run("git", "ls-files", "-coz", "--exclude-standard", external=True, silent=True, log=False)
        for name in str(names).rstrip("\0").split("\0"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
        environments = [Path(directory, str(number)) for number in range(len(installs))]
        for environment, line in zip(environments, installs, strict=True):
            session.run("python", "-m", "venv", str(environment))
            if line.startswith("uv "):
                session.run(str(environment / "bin" / "pip"), "install", "-q", "uv", external=True)
            run_as_typed(session, environment, tree, line)
        for line in commands:
            run_as_typed(session, environments[0], tree, line)


def run_as_typed(session: nox.Session, environment: Path, directory: Path, line: str) -> None:
    """Run a line of shell with `environment` activated, and log how long it took."""
    path = os.pathsep.join((str(environment / "bin"), os.environ["PATH"]))
    variables = {"PATH": path, "VIRTUAL_ENV": str(environment)}
    started = time.monotonic()
    with session.chdir(directory):
        session.run("bash", "-c", line, env=variables, external=True)
    session.log(f"{time.monotonic() - started:.0f} s: {line}")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build all wheels, install them into a clean environment and run from another directory."""
    session.install("-c", "constraints.txt", "build", *BUILD_TOOLS)
    dist = session.create_tmp()
    for name in PACKAGES:
        session.run("python", "-m", "build", "--no-isolation", "--outdir", dist, f"packages/{name}", silent=True)
    built = sorted(os.path.join(dist, file) for file in os.listdir(dist) if file.endswith(".whl"))
    extras = [f"nemotron4-{name}{extras}" for name, extras in EXTRAS.items()]
    session.install("-c", "constraints.txt", *built, *extras)
    session.chdir(dist)
    session.run("nemotron4", "train", "experiment=demo", "--cfg", "job", silent=True)
    session.run("nemotron4", "prepare", "tokenizer.vocab_size=4096", "dir=prepared")
    session.run(
        "nemotron4", "train", "experiment=smoke", "data.dir=prepared", "trainer.max_steps=3", "topology=cpu_2x1"
    )
