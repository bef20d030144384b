"""The areas of docs/performance.md, in its order; a new benchmark is added to the one that it belongs to."""

from areas import checkpoints, data, evaluation, growth, inference, learning, start, training

AREAS = (
    training.AREA,
    learning.AREA,
    data.AREA,
    checkpoints.AREA,
    inference.AREA,
    evaluation.AREA,
    start.AREA,
    growth.AREA,
)
