"""TD3 and DDPG in NumPy on Gymnasium's Pendulum-v1: an experiment to try Experiment Manager with.

Run it alone with `python train.py seed=3`, or as a sweep with
`python train.py -m algorithm=TD3,DDPG seed=1,2,3`.

There is one agent for both algorithms; the config group `algorithm` decides which one it is:

- DDPG: Lillicrap et al. (2015), "Continuous control with deep reinforcement learning", arXiv:1509.02971
- TD3: Fujimoto et al. (2018), "Addressing function approximation error in actor-critic methods", arXiv:1802.09477

Shapes are in brackets: [batch, 3] is a matrix with one row of three numbers per transition.
"""

import logging
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

# NumPy reads these variables when it is imported. The matrices here are so small that threads would
# mostly wait for each other, and they would take the cores of the other runs of a sweep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gymnasium
import hydra
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from experiment_manager import current_job

Array: TypeAlias = NDArray[np.floating[Any]]
Environment: TypeAlias = gymnasium.Env[Array, Array]

logger = logging.getLogger(__name__)


def initial_parameters(sizes: Sequence[int], generator: np.random.Generator) -> Array:
    """Draw the parameters of an `MLP`, uniformly from ±1/√(number of inputs of their layer)."""
    layers = [generator.uniform(-1, 1, (inputs + 1) * outputs) / inputs**0.5 for inputs, outputs in pairwise(sizes)]
    return np.concatenate(layers).astype(np.float32)


def split_layers(vector: Array, sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """Return views of the parameters in a vector: for each layer, weights [inputs, outputs] and bias [outputs]."""
    layers = []
    for inputs, outputs in pairwise(sizes):
        layer, vector = np.split(vector, [(inputs + 1) * outputs])
        layer = layer.reshape(inputs + 1, outputs)
        layers.append((layer[:-1], layer[-1]))
    return layers


class MLP:
    """A multilayer perceptron: linear layers with a ReLU after each one but the last.

    All parameters lie in one vector and their gradient in another, so that the optimiser and the
    target networks need not know about layers.
    """

    def __init__(self, sizes: Sequence[int], parameters: Array) -> None:
        """Use these parameters (not a copy) for layers of these sizes: the inputs, the hidden layers, the outputs."""
        self.sizes = sizes
        self.parameters = parameters
        self.gradient = np.zeros_like(parameters)
        self.layers = split_layers(self.parameters, sizes)
        self.layer_gradients = split_layers(self.gradient, sizes)
        self.layer_inputs: list[Array] = []

    def forward(self, inputs: Array) -> Array:
        """Return the outputs [batch, outputs] for these inputs [batch, inputs]."""
        self.layer_inputs = []
        for weights, bias in self.layers:
            if self.layer_inputs:
                np.maximum(inputs, 0, out=inputs)
            self.layer_inputs.append(inputs)
            inputs = inputs @ weights
            inputs += bias
        return inputs

    def backward(self, gradient: Array) -> Array:
        """Propagate the gradient of a loss back from the outputs of the latest `forward` to its inputs.

        Takes [batch, outputs], returns [batch, inputs], and sets `self.gradient`, summed over the batch.
        """
        for layer in reversed(range(len(self.layers))):
            inputs = self.layer_inputs[layer]
            weight_gradient, bias_gradient = self.layer_gradients[layer]
            np.matmul(inputs.T, gradient, out=weight_gradient)
            np.sum(gradient, axis=0, out=bias_gradient)
            gradient = gradient @ self.layers[layer][0].T
            if layer > 0:
                gradient *= inputs > 0  # of the ReLU
        return gradient


class Adam:
    """The optimiser of Kingma and Ba (2014), arXiv:1412.6980, with its usual constants."""

    def __init__(self, network: MLP, learning_rate: float) -> None:
        self.network = network
        self.learning_rate = learning_rate
        self.mean = np.zeros_like(network.parameters)
        self.square = np.zeros_like(network.parameters)
        self.steps = 0

    def step(self) -> None:
        """Move the parameters of the network against its gradient."""
        gradient = self.network.gradient
        self.steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        step_size = self.learning_rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        self.network.parameters -= step_size * self.mean / (np.sqrt(self.square) + 1e-8)


class Transitions(NamedTuple):
    """Transitions of the environment, one per row."""

    observations: Array  # [n, 3]: cosine and sine of the angle, angular velocity in rad/s
    actions: Array  # [n, 1]: torque, as a part of the largest one
    rewards: Array  # [n, 1]
    terminals: Array  # [n, 1]: 1 where no reward can follow, which is not so at a mere time limit
    next_observations: Array  # [n, 3]


class ReplayBuffer:
    """The latest transitions, to sample from."""

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        widths = (observation_size, action_size, 1, 1, observation_size)
        self.transitions = Transitions(*(np.zeros((capacity, width), np.float32) for width in widths))
        self.capacity = capacity
        self.added = 0

    def add(self, *transition: Array | float) -> None:
        """Store one transition, given in the order of `Transitions`, in the place of the oldest one if full."""
        for column, value in zip(self.transitions, transition, strict=True):
            column[self.added % self.capacity] = value
        self.added += 1

    def sample(self, batch_size: int, generator: np.random.Generator) -> Transitions:
        """Draw transitions uniformly, with replacement."""
        rows = generator.integers(min(self.added, self.capacity), size=batch_size)
        return Transitions(*(column[rows] for column in self.transitions))


class Agent:
    """A deterministic policy and the critics that it learns from: DDPG, or TD3, or what lies between them.

    Actions lie in [-1, 1]. The values of the critics are expected discounted returns.
    """

    def __init__(self, observation_size: int, action_size: int, config: DictConfig, seed: int) -> None:
        self.generator = np.random.default_rng(config.seed)
        self.gamma: float = config.gamma
