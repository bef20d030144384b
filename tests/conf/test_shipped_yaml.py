"""Every YAML that ships composes into a valid job; the tree holds what the schema says."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, FloatNode, ListConfig, OmegaConf

from nemotron4_config.application import register_resolvers, to_job
from nemotron4_config.command import command_loaders, load_attribute
from nemotron4_config.job_file import load_job, render_job
from nemotron4_data import ColumnsConfig
from nemotron4_model import ModelConfig
from nemotron4_model.config import Recompute, preset_names
from nemotron4_model.hugging_face.config_json import to_json
from nemotron4_train.budget import training_flops
from nemotron4_train.job import OptimizerConfig
from nemotron4_train.launcher_config import LauncherConfig
from nemotron4_train.launching.legs import legs
from nemotron4_train.launching.memory_gate import shortage
from nemotron4_train.machine import load_machine, machine_names
from nemotron4_train.plan.estimate import estimate
from nemotron4_train.schedule import Timeline
from nemotron4_train.topology import TopologyConfig

CONF = Path(__file__).parents[2] / "conf"
VERBS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "common")
GROUPS = {
    "prepare": ("corpus", "curation", "executor", "tokenizer"),
    "generate": ("sampling",),
    "eval": ("suite",),
    "train": (
        *("blend", "evaluation", "experiment", "launcher", "logger", "model", "optimizer", "precision", "schedule"),
        *("topology", "trainer"),
    ),
}
REQUIRED = {
    "generate": ["model_dir=m", "prompt=p"],
    "eval": ["model_dir=m"],
    "eval_report": ["evaluations=[a,b]"],
    "serve": ["model_dir=m"],
    "export": ["run=r"],
    "report": ["run=r"],
    "cancel": ["run=r"],
    "data_adopt": ["dir=d", "tokenizer_model=t", "train=[english/web:s]"],
}
# What an option needs beside it to be a valid job.
COMPANIONS = {
    "blend=nemotron4": ["schedule=nemotron4_8t", "model=nemotron4_15b"],
    "blend=english": ["schedule=isoflop"],
    "blend=reference": ["schedule=reference"],
    "schedule=nemotron4_8t": ["blend=nemotron4", "model=nemotron4_15b"],
    "schedule=nemotron4_continued": ["blend=nemotron4", "model=nemotron4_15b"],
    "precision=fp8": ["topology=h100_x1", "topology.compile=true"],
    "schedule=reuse": ["blend=nemotron4", "model=nemotron4_15b"],
    "schedule=gpu_day": ["model=small_1_75b", "blend=english"],
    "schedule=hour": ["model.max_sequence_length=512", "topology.micro_batch_size=12"],
    "corpus=files": ["corpus.name=mine", "corpus.files=[a.jsonl]"],
}

ONLY_FOR = {"experiment=planner_validation": "plan"}


def job_of(verb, *overrides):
    config = composed(verb, *REQUIRED.get(verb, []), *overrides)
    return to_job(config, load_attribute(command_loaders()[verb]().job))


def composed(verb, *overrides):
    command = command_loaders()[verb]()
    ConfigStore.instance().store(name="job", node=load_attribute(command.job))
    register_resolvers(command)
    with initialize_config_module("nemotron4_config.conf", version_base="1.3"):
        return compose(verb, list(overrides))


def test_columns_are_composed():
    columns = "corpus.columns={text: body, source: null, language: constant:nl}"
    job = job_of("prepare", *COMPANIONS["corpus=files"], "corpus=files", columns)
    mapped = ColumnsConfig(text="body", source=None, language="constant:nl")
    assert job.corpus.columns == mapped


def options():
    for verb, groups in GROUPS.items():
        for group in groups:
            for path in sorted((CONF / group).glob("*.yaml")):
                option = f"{group}={path.stem}"
                yield pytest.param(ONLY_FOR.get(option, verb), option, id=option)


@pytest.mark.parametrize(("verb", "option"), list(options()))
def test_every_option_makes_a_valid_job(verb, option, tmp_path):
    overrides = list(COMPANIONS.get(option, []))
    if option == "model=from_directory":
        content = to_json(ModelConfig.preset("nano_1m"), torch.float32)
        (tmp_path / "config.json").write_text(json.dumps(content))
        overrides.append(f"start_from={tmp_path}")
    if option.startswith("topology=dgx"):
        for phase in ("warmup", "main", "continued"):
            overrides += [f"schedule.phases.{phase}.{key}" for key in ("global_batch_size=1152", "tokens=1_000_000")]
        overrides += ["schedule=smoke", "model=nemotron4_15b", "topology.micro_batch_size=2"]
    job = job_of(verb, option, *overrides)
    if option.startswith("topology="):
        assert job.topology.num_ranks >= 1
        assert job.topology.machine in machine_names()
        assert job.topology.machine.split("_")[0] in option
    if option.startswith("experiment="):
        assert [shortage(job, leg) for leg in legs(job)] == [None] * len(legs(job))


MEANT_FOR = {  # GPU topologies, and the experiment that their comment names; those of the campaign are held with it
    "nemotron4_15b": ["dgx_h100_x1", "dgx_h100_x96", "dgx_h100_x12_shard8", "dgx_h100_x12_shard4_tensor2"],
    "nemotron4_15b_campaign": ["dgx_h100_x192", "dgx_h100_x288"],
    "h100_1_75b": ["h100_x1", "h100_x8", "h200_x1", "h200_x8", "a100_x1", "a100_x8"],
}
VARIANTS = {  # that comments say fit too
    "a100_x1": {"machine": "a100_40g", "micro_batch_size": 1, "recompute": Recompute.selective},
    "h200_x1": {"micro_batch_size": 8},
}


@pytest.mark.parametrize("experiment", ["nemotron4_15b", "h100_1_75b"])
def test_an_experiment_fits_all_topologies_that_are_meant_for_it(experiment):
    for name in MEANT_FOR[experiment]:
        job = job_of("plan", f"experiment={experiment}", f"topology={name}")
        for variant in ({}, VARIANTS.get(name, {})):
            other = replace(job, topology=replace(job.topology, **variant))
            assert [shortage(other, leg) for leg in legs(other)] == [None]
        text = (CONF / "topology" / f"{name}.yaml").read_text(encoding="utf-8").replace("\n#", "")
        said = re.search(r"([\d.]+) GB and ([\d.]+) s a step of 1,152 sequences, predicted", text)
        assert (said is None) is ("predicted" not in text)
        if said is not None:
            largest = estimate(job).legs[0].phases[-1]
            assert said.groups() == (f"{largest.memory.total / 1e9:.1f}", f"{largest.time.total_seconds:.2f}")


def test_every_topology_of_gpus_is_meant_for_an_experiment():
    names = {path.stem for path in (CONF / "topology").glob("*.yaml")}
    assert {name for name in names if not name.startswith("cpu")} == set(itertools.chain(*MEANT_FOR.values()))


def test_no_yaml_is_left_out():
    found = {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")}
    groups = {group for names in GROUPS.values() for group in names}
    assert found - groups - {"local", "machine"} == {f"{verb}.yaml" for verb in VERBS} | {"common.yaml"}
    assert set(VERBS) == set(command_loaders())


def test_every_machine_loads_and_a_gpu_is_of_one_machine():
    names = sorted(path.stem for path in (CONF / "machine").glob("*.yaml"))
    assert machine_names() == names
    machines = [load_machine(name) for name in names]
    assert [machine.name for machine in machines] == names
    cuda_names = [cuda_name for machine in machines for cuda_name in machine.cuda_names]
    assert len(set(cuda_names)) == len(cuda_names) > 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb):
    job_of(verb)


@pytest.mark.parametrize("name", preset_names())
def test_a_model_option_is_the_preset_of_that_name(name):
    assert job_of("train", f"model={name}", "schedule=smoke").model == ModelConfig.preset(name)


def test_every_model_option_is_a_preset_but_the_one_of_a_directory():
    assert sorted(path.stem for path in (CONF / "model").glob("*.yaml")) == sorted([*preset_names(), "from_directory"])


def test_the_15b_experiment_is_the_paper_s_model_on_its_mesh():
    job = job_of("train", "experiment=nemotron4_15b")
    assert job.model.num_parameters == 15_628_775_424
    assert job.topology.num_ranks == 768
    assert list(job.schedule.phases) == ["warmup", "batch_384", "batch_768", "batch_1152"]


@pytest.mark.parametrize("machine", ["h100", "h200", "a100"])
def test_the_run_on_one_gpu_also_fits_eight(machine):
    one, eight = (job_of("train", "experiment=h100_1_75b", f"topology={machine}_x{number}") for number in (1, 8))
    assert (one.topology.num_ranks, eight.topology.num_ranks) == (1, 8)
    assert one.topology.compile
    assert eight.topology.compile
    first = one.timeline().step(0)
    assert first.global_batch_size * first.sequence_length == 262_144
    assert one.digest() == eight.digest()


def test_a_schedule_is_continued_by_another():
    job = job_of("train", "experiment=nemotron4_15b_continued")
    assert list(job.schedule.phases) == [
        *("warmup", "batch_384", "batch_768", "batch_1152"),
        *("continued_general", "continued_qa"),
    ]
    timeline = Timeline(job.schedule)
    pretrained = Timeline(job_of("train", "experiment=nemotron4_15b").schedule)
    last = pretrained.num_steps - 1
    assert timeline.step(last) == pretrained.step(last)
    general, late = timeline.phases[-2:]
    rates = [timeline.learning_rate_fraction(token) for token in (general.first_token, late.first_token)]
    assert rates == pytest.approx([0.1, 0.1 / 5], rel=0.01)
    assert timeline.learning_rate_fraction(timeline.num_tokens) == pytest.approx(0.1 / 100)


@pytest.mark.parametrize("overrides", [["schedule=reuse", *COMPANIONS["schedule=reuse"]], ["experiment=continue_demo"]])
def test_reuse_falls_to_a_hundredth_and_switches_its_blend_at_a_fifth(overrides):
    timeline = Timeline(job_of("train", *overrides).schedule)
    general, late = timeline.phases
    first = timeline.learning_rate_fraction(general.tokens_per_step)
    assert first == pytest.approx(1, abs=0.01)
    assert timeline.learning_rate_fraction(late.first_token) == pytest.approx(1 / 5, rel=0.03)  # whole steps
    assert timeline.learning_rate_fraction(timeline.num_tokens) == pytest.approx(1 / 100)
    assert general.phase.blend != late.phase.blend


def test_the_twin_keeps_the_proportions():
    whole = job_of("train", "experiment=nemotron4_15b_continued").schedule
    twin = job_of("train", "schedule=[nemotron4_8t_twin,nemotron4_continued_twin]").schedule
    assert list(twin.phases) == list(whole.phases)
    for name, phase in whole.phases.items():
        small = twin.phases[name]
        assert (small.tokens * 2_000_000, small.global_batch_size * 48) == (phase.tokens, phase.global_batch_size)
        assert small.learning_rate == phase.learning_rate


def test_the_example_of_a_site_fits_the_launcher():
    site = OmegaConf.load(CONF.parent / "launchers" / "slurm" / "site.example.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LauncherConfig), site.launcher))
    assert config.partition == "gpu"


def test_the_campaign_has_a_leg_for_each_number_of_nodes():
    job = job_of("train", "experiment=nemotron4_15b_campaign", "launcher=slurm")
    nodes = [(leg.phases, leg.topology.num_nodes) for leg in legs(job)]
    assert nodes == [
        (("warmup", "batch_384"), 96),
        (("batch_768",), 192),
        (("batch_1152", "continued_general", "continued_qa"), 288),
    ]


def test_the_isoflop_sweep_costs_its_budgets():
    swept = yaml.safe_load((CONF / "experiment" / "isoflop.yaml").read_text(encoding="utf-8"))["hydra"]["sweeper"]
    values = {key: value.split(",") for key, value in swept["params"].items()}
    budgets, models = values["schedule.budget_flops"], values["model"]
    assert len(budgets) >= 3
    for budget, model in itertools.product(budgets, models):
        job = job_of("train", "experiment=isoflop", f"schedule.budget_flops={budget}", f"model={model}")
        timeline = job.timeline()
        assert training_flops(timeline, job.model) == pytest.approx(float(budget), rel=0.02)
        warmup = timeline.phases[0].num_tokens
        assert warmup / timeline.num_tokens == pytest.approx(0.05, abs=0.01)


def numbers_with_fractions(node, key=""):
    """Dotted keys of every float in a composed job, as dictionaries and lists hold them too."""
    children = []
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        children = [(f"{key}.{name}".lstrip("."), node._get_node(name)) for name in node]
    elif isinstance(node, ListConfig) and not node._is_none():
        children = [(f"{key}.{index}", node._get_node(index)) for index in range(len(node))]
    for child_key, child in children:
        if isinstance(child, FloatNode):
            yield child_key
        yield from numbers_with_fractions(child, child_key)


def test_no_number_of_any_verb_may_be_nan_or_infinite():
    job_types = {verb: load_attribute(command_loaders()[verb]().job) for verb in VERBS if verb != "plan"}  # as train
    num_found = 0
    for verb, job_type in job_types.items():
        required = ["corpus=debian", "curation=nemotron4"] if verb == "prepare" else REQUIRED.get(verb, [])
        config = composed(verb, *required)
        for key in list(numbers_with_fractions(config)):
            if key.endswith(".unimax_epochs"):  # an exponent stands beside it, which is refused first
                continue
            before = OmegaConf.select(config, key)
            for value in (math.nan, math.inf):
                OmegaConf.update(config, key, value)
                with pytest.raises(ValueError) as refusal:
                    to_job(config, job_type)
                # With the key, or as the other end of a range that its group's own rule names.
                text, (group, name) = str(refusal.value), re.sub(r"\.\d+$", "", key).rsplit(".", 1)
                assert text.startswith((f"{group}.", re.sub(r"phases\.\w+", "phases.*", group))), text
                assert re.search(rf"\b{name}( \([^)]*|=){value}", text), text
            OmegaConf.update(config, key, before)
            num_found += 1
    assert num_found > 60


def test_a_job_built_in_python_may_not_hold_nan_or_infinity_either():
    job = job_of("train", "experiment=smoke")
    for key, value, change in (
        ("optimizer.weight_decay", math.inf, {"optimizer": OptimizerConfig(weight_decay=math.inf)}),
        ("blend.max_epochs", math.inf, {"blend": replace(job.blend, max_epochs=math.inf)}),
        ("schedule.phases.main.topology.peak_teraflops", math.inf, {"schedule": on(job, peak_teraflops=math.inf)}),
    ):
        with pytest.raises(ValueError) as refusal:
            replace(job, **change)
        assert str(refusal.value) == f"{key} ({value}): must be a finite number; give one"


def test_nor_may_a_job_file(tmp_path):
    job = job_of("train", "experiment=smoke")
    path = tmp_path / "job.yaml"
    for text in (".nan", ".inf"):
        path.write_text(re.sub(r"init_std: .*", f"init_std: {text}", render_job(job)))
        with pytest.raises(ValueError) as refusal:
            load_job(path, type(job))
        assert str(refusal.value) == f"model.init_std ({text[1:]}): must be greater than 0 and finite"
    path.write_text(re.sub(r"end_fraction: .*", "end_fraction: .inf", render_job(job), count=1))
    with pytest.raises(ValueError) as refusal:
        load_job(path, type(job))
    assert str(refusal.value) == (
        "schedule.phases.warmup.learning_rate.end_fraction (inf): must be a finite number; give one"
    )


def on(job, **topology):
    """The job's schedule with its main phase on such a topology."""
    phases = job.schedule.phases | {
        "main": replace(job.schedule.phases["main"], topology=TopologyConfig(**topology)),
    }
    return replace(job.schedule, phases=phases)
