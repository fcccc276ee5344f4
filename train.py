"""TD3 and DDPG in NumPy on Gymnasium's Pendulum-v1, as an example of an experiment.

Run it alone with `python train.py seed=3`, or as a sweep with
`python train.py -m algorithm=TD3,DDPG seed=1,2,3`.

There is one agent for both algorithms; the config group `algorithm` decides which one it is:

- DDPG: Lillicrap et al. (2015), Continuous control with deep reinforcement learning, arXiv:1509.02971
- TD3: Fujimoto et al. (2018), Addressing function approximation error in actor-critic methods, arXiv:1802.09477

Shapes are given in brackets: [batch, 3] is a matrix with one row of three numbers per sample.
"""

import copy
import logging
import os
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

# The matrices are so small that threads would only wait for each other, and they would take the
# cores of the other runs of a sweep. NumPy reads these variables when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gymnasium
import hydra
import numpy as np
from numpy.typing import DTypeLike, NDArray
from omegaconf import DictConfig

from experiment_manager import current_job

logger = logging.getLogger(__name__)

Array: TypeAlias = NDArray[np.floating[Any]]
Environment: TypeAlias = gymnasium.Env[Array, Array]


class MLP:
    """A multilayer perceptron: linear layers with a ReLU after each of them but the last.

    All weights and biases lie in one vector, `parameters`, and their derivatives in another one,
    `gradient`; so an optimiser or a target network handles them without a loop over layers.
    """

    def __init__(self, sizes: list[int], generator: np.random.Generator, dtype: DTypeLike = np.float32) -> None:
        """Draw the parameters of layers of these sizes, input and output included."""
        self.sizes = sizes
        bounds = [np.full((inputs + 1) * outputs, inputs**-0.5) for inputs, outputs in pairwise(sizes)]
        bound = np.concatenate(bounds)
        self.parameters: Array = generator.uniform(-bound, bound).astype(dtype)
        self.gradient: Array = np.zeros_like(self.parameters)
        self.activations: list[Array] = []

    def layers(self, vector: Array) -> list[tuple[Array, Array]]:
        """Return views of a parameter vector: per layer, weights [inputs, outputs] and bias [outputs]."""
        views = []
        for inputs, outputs in pairwise(self.sizes):
            layer, vector = np.split(vector, [(inputs + 1) * outputs])
            matrix = layer.reshape(inputs + 1, outputs)
            views.append((matrix[:-1], matrix[-1]))
        return views

    def forward(self, inputs: Array) -> Array:
        """Map inputs [batch, inputs] to outputs [batch, outputs], and remember what `backward` needs."""
        self.activations = [inputs]
        for weights, bias in self.layers(self.parameters):
            ...
        return inputs
