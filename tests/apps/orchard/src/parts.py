"""Data, models, callbacks, loggers and a trainer: what the YAML names by `_target_`. Everything is plain Python."""

import csv
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Metrics = dict[str, float]


class Harvest:
    """Apples by the age of the tree; written once below `data_dir`, as a download would be."""

    def __init__(self, data_dir: str, n_trees: int, batch_size: int, seed: int | None) -> None:
        source = random.Random(seed or 0)
        ages = [source.random() for _ in range(n_trees)]
        self.trees = [(age, 3 * age + age**2 + source.gauss(0, 0.1)) for age in ages]
        self.batch_size = batch_size
        Path(data_dir).mkdir(parents=True, exist_ok=True)

    def batches(self) -> list[list[tuple[float, float]]]:
        seen = self.trees[: -self.batch_size]
        return [seen[at : at + self.batch_size] for at in range(0, len(seen), self.batch_size)]

    def held_back(self) -> list[tuple[float, float]]:
        return self.trees[-self.batch_size :]


class Descent:
    """Plain gradient descent on a list of weights."""

    def __init__(self, weights: list[float], lr: float, decay: float) -> None:
        self.weights, self.lr, self.decay = weights, lr, decay

    def step(self, gradients: list[float]) -> None:
        for at, gradient in enumerate(gradients):
            self.weights[at] -= self.lr * (gradient + self.decay * self.weights[at])


class Curve:
    """A polynomial."""

    def __init__(self, optimizer: Callable[..., Descent], degree: int) -> None:
        self.weights = [0.0] * (degree + 1)
        self.optimizer = optimizer(self.weights)

    def loss(self, trees: list[tuple[float, float]]) -> float:
        return sum((self._value(age) - apples) ** 2 for age, apples in trees) / len(trees)

    def learn(self, trees: list[tuple[float, float]]) -> None:
        errors = [(age, self._value(age) - apples) for age, apples in trees]
        self.optimizer.step(
            [2 * sum(error * age**power for age, error in errors) / len(errors) for power in range(len(self.weights))]
        )

    def _value(self, age: float) -> float:
        return sum(weight * age**power for power, weight in enumerate(self.weights))


class Line(Curve):
    """The simplest polynomial."""

    def __init__(self, optimizer: Callable[..., Descent]) -> None:
        super().__init__(optimizer, 1)


class Checkpoint:
    """Keeps the best weights in a file of their own, and the last ones."""

    def __init__(self, dirpath: str, filename: str, monitor: str) -> None:
        self.folder, self.filename, self.monitor = Path(dirpath), filename, monitor
        self.best_model_path, self._best = "", float("inf")

    def after_epoch(self, epoch: int, weights: list[float], metrics: Mapping[str, float]) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"epoch": epoch, "weights": weights})
        (self.folder / "last.ckpt").write_text(text)
        if metrics[self.monitor] < self._best:
            if self.best_model_path:
                Path(self.best_model_path).unlink()
            self._best = metrics[self.monitor]
            self.best_model_path = str(self.folder / (self.filename.format(epoch=epoch) + ".ckpt"))
            Path(self.best_model_path).write_text(text)
        return True


class EarlyStop:
    """Ends a training that no longer gets better."""

    def __init__(self, monitor: str, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self._best, self._since = float("inf"), 0

    def after_epoch(self, epoch: int, weights: list[float], metrics: Mapping[str, float]) -> bool:
        self._since = 0 if metrics[self.monitor] < self._best else self._since + 1
        self._best = min(self._best, metrics[self.monitor])
        return self._since < self.patience


class CsvLog:
    """One row per epoch below `save_dir/name/version_N`, a new N for each training."""

    def __init__(self, save_dir: str, name: str) -> None:
        folder = Path(save_dir) / name
        self.folder = folder / f"version_{len(list(folder.glob('version_*')))}"
        self._rows: list[dict[str, Any]] = []

    def log_hyperparams(self, values: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "hparams.json").write_text(json.dumps(values, indent=1, sort_keys=True))

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._rows.append({"epoch": epoch, **metrics})
        with (self.folder / "metrics.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, ["epoch", "train/loss", "val/loss"])
            table.writeheader()
            table.writerows(self._rows)


class LineLog:
    """A line of JSON per epoch."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def log_hyperparams(self, values: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            print(json.dumps({"epoch": epoch, **metrics}), file=file)


class Trainer:
    """Epochs, with callbacks and loggers after each of them."""

    def __init__(
        self, default_root_dir: str, min_epochs: int, max_epochs: int, callbacks: list[Any], logger: list[Any]
    ) -> None:
        self.root, self.min_epochs, self.max_epochs = default_root_dir, min_epochs, max_epochs
        self.callbacks, self.loggers = callbacks, logger
        self.callback_metrics: Metrics = {}

    @property
    def best_model_path(self) -> str:
        return next((each.best_model_path for each in self.callbacks if isinstance(each, Checkpoint)), "")

    def fit(self, model: Curve, datamodule: Harvest, ckpt_path: str | None) -> None:
        first = self._load(model, ckpt_path) + 1 if ckpt_path else 0
        for epoch in range(first, self.max_epochs):
            for batch in datamodule.batches():
                model.learn(batch)
            learned = [tree for batch in datamodule.batches() for tree in batch]
            found = {"train/loss": model.loss(learned), "val/loss": model.loss(datamodule.held_back())}
            best = min(found["val/loss"], self.callback_metrics.get("val/loss_best", float("inf")))
            self.callback_metrics |= {**found, "val/loss_best": best}
            for each in self.loggers:
                each.log(epoch, found)
            goes_on = [each.after_epoch(epoch, model.weights, found) for each in self.callbacks]
            if epoch + 1 >= self.min_epochs and not all(goes_on):
                break

    def test(self, model: Curve, datamodule: Harvest, ckpt_path: str | None) -> None:
        if ckpt_path:
            self._load(model, ckpt_path)
        self.callback_metrics["test/loss"] = model.loss(datamodule.held_back())

    @staticmethod
    def _load(model: Curve, path: str) -> int:
        kept = json.loads(Path(path).read_text())
        model.weights[:] = kept["weights"]
        return int(kept["epoch"])
