"""What a model learns from the demo's samples: ours by the demo's settings, beside transformers' Nemotron with AdamW.

Ours is `nemotron4 train experiment=demo`. The peer is NemotronForCausalLM of the same shape in a plain loop: it starts
from the same weights, takes the same samples in the same steps, and its rate is the same fraction of its peak, which
is tuned (PEER). Both are scored by one function on the same held-out text; the curves read a part of that text. The
peer's process keeps freed memory, as `nemotron4 train` does.

    python tools/bench/learning.py --data data/sample --output tools/bench/results/learning.json

Further arguments override the demo, for both: `learning.py model=nano_1m schedule.budget_flops=1e12`.
"""

import argparse
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from inputs import nemotron4
from machine import description, publish
from peers import nemotron_of

from nemotron4_data import Corpus
from nemotron4_eval.heldout.bits_per_byte import evaluate_bits_per_byte
from nemotron4_model import ModelConfig, Transformer, initialise
from nemotron4_model.hugging_face.load import load_pretrained
from nemotron4_train.cli import read_train_job
from nemotron4_train.host_memory import keep_freed_memory
from nemotron4_train.job import TrainJob
from nemotron4_train.lightning.data import StepBatch, StepDataset
from nemotron4_train.lightning.fit import token_stream
from nemotron4_train.reporting.metrics import read_rows
from nemotron4_train.schedule import Timeline

PEER = {"lr": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
"""By `train experiment=demo optimizer=adamw optimizer.embedding_lr=null optimizer.head_lr=null`, the same model, at a
third of the tokens in bf16: bits per byte by lr 1e-3 2.852, 2e-3 2.779, 3e-3 2.790, 5e-3 2.827, 1e-2 2.928; with a
second beta of 0.99, 3e-3 2.794."""
Trained = tuple[Transformer, dict[str, Any]]
"""A trained model, and what is known of its training."""


def train_ours(arguments: argparse.Namespace, run: Path) -> Trained:
    """By the verbs themselves: our model as it is exported, and what the run recorded."""
    threads = f"launcher.num_threads={arguments.threads}"
    nemotron4("train", "experiment=demo", f"data.dir={arguments.data}", f"run.dir={run}", threads, *arguments.overrides)
    nemotron4("export", f"run={run}")
    job, speeds = read_train_job(run), [float(row["tokens_per_second"]) for row in read_rows(run / "metrics.csv")]
    seconds = sum(tokens / speed for tokens, speed in zip(_tokens_by_step(job), speeds, strict=True))
    curve = [[int(row["tokens"]), float(row["overall"])] for row in read_rows(run / "validation.csv")]
    optimizer = {key: getattr(value, "value", value) for key, value in vars(job.optimizer).items()}
    return load_pretrained(run / "export"), {"seconds": round(seconds, 1), "optimizer": optimizer, "curve": curve}


def job_of(run: Path, training: Future[Any]) -> TrainJob:
    """The job of a run that starts now."""
    while not (run / "job.yaml").exists():
        if training.done():
            training.result()  # raises what it failed with
        time.sleep(0.1)
    return read_train_job(run)


def _tokens_by_step(job: TrainJob) -> list[int]:
    timeline = Timeline(job.schedule, job.trainer.max_steps)
    plans = map(timeline.step, range(timeline.num_steps))
    return [plan.global_batch_size * plan.sequence_length for plan in plans]


def train_peer(job: TrainJob, corpus: Corpus, directory: Path) -> Trained:
    """A plain loop over the job's steps, validated as the job is."""
    timeline = Timeline(job.schedule, job.trainer.max_steps)
    steps = StepDataset(token_stream(job, corpus, timeline), timeline, 0, 1)
    model = peer_of(job.model, job.seed)
    matrices, others = ([p for p in model.parameters() if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **PEER, fused=True)
    seconds, curve = 0.0, []
    for index in range(timeline.num_steps):
        plan, begin = timeline.step(index), time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = PEER["lr"] * plan.learning_rate_fraction
        take_step(model, optimizer, steps[index], job.topology.micro_batch_size)
        seconds += time.perf_counter() - begin
        if (index + 1) % job.trainer.validation_interval_steps == 0 or index + 1 == timeline.num_steps:
            curve.append(
                [plan.tokens_after, validate(in_our_form(model, directory), corpus, job, plan.sequence_length)]
            )
    return in_our_form(model, directory), {"seconds": round(seconds, 1), "optimizer": PEER, "curve": curve}


def peer_of(config: ModelConfig, seed: int) -> Any:
    """Transformers' model of this shape, with the weights that ours starts from."""
    ours = Transformer(config)
    initialise(ours, seed, config)
    return nemotron_of(ours).train()


def take_step(model: Any, optimizer: torch.optim.Optimizer, batch: StepBatch, micro_batch_size: int) -> None:
    """Forward and backward of each micro-batch, clip, update."""
    cuts = [batch[key].split(micro_batch_size) for key in ("inputs_BT", "targets_BT")]
    for inputs_BT, targets_BT in zip(*cuts, strict=True):
        logits_BTV = model(inputs_BT, use_cache=False).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        (loss * len(inputs_BT) / len(batch["inputs_BT"])).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def in_our_form(model: Any, directory: Path) -> Transformer:
    """The peer's weights, by way of the files that transformers writes."""
    model.save_pretrained(directory)
    return load_pretrained(directory)


def validate(model: Transformer, corpus: Corpus, job: TrainJob, window: int) -> float:
    """What `nemotron4 train` writes to validation.csv: sources count by all their held-out bytes, read in part."""
    limit = job.trainer.validation_bytes_per_source
    found = evaluate_bits_per_byte(model, corpus, window=window, stride=window, max_bytes_per_source=limit).sources
    num_bytes = {name: corpus.sizes(name, "heldout")["bytes"] for name in found}
    return sum(bits * num_bytes[name] for name, bits in found.items()) / sum(num_bytes.values())


def score(trained: Trained, arguments: argparse.Namespace, num_tokens: int) -> dict[str, Any]:
    """Bits per byte of the held-out text, as `nemotron4 eval suite=demo` measures them."""
    (model, training), corpus = trained, Corpus.open(arguments.data)
    found = evaluate_bits_per_byte(model, corpus, max_bytes_per_source=arguments.heldout_bytes)
    return {
        "bits_per_byte": round(found.overall, 4),
        "by_domain": {name: round(bits, 4) for name, bits in found.domains.items()},
        "heldout_bytes": sum(found.num_bytes.values()),
        "tokens_per_second": round(num_tokens / training["seconds"]),
        **training,
    }


def main() -> None:
    """Train both at the same time, with a core each; print one JSON document, or also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--data", default="data/sample", help="a prepared corpus; its tokenizer fits the model")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two trainings")
    parser.add_argument("--heldout-bytes", type=int, help="of each source that the result is of; all by default")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the demo")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    document = description("torch", "transformers", threads=arguments.threads)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as others:
        run = Path(scratch, "run")
        training = others.submit(train_ours, arguments, run)
        job = job_of(run, training)
        num_tokens = Timeline(job.schedule, job.trainer.max_steps).num_tokens
        scoring = others.submit(lambda: score(training.result(), arguments, num_tokens))
        peer = train_peer(job, Corpus.open(arguments.data), Path(scratch, "peer"))
        ours = scoring.result()
        torch.set_num_threads(2 * arguments.threads)  # what both had
        document |= {
            "what": "the demo's samples in the demo's order; bits per byte of all held-out text; curves: of a part",
            "parameters": job.model.num_parameters,
            "tokens": num_tokens,
            "ours": ours,
            "transformers": score(peer, arguments, num_tokens),
        }
    publish(document, arguments.output)


if __name__ == "__main__":
    main()
