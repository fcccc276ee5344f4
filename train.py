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
    """A deterministic policy, and the critics it learns from: TD3, DDPG or something between them.

    Actions lie in [-1, 1]. A critic estimates the value, which is the expected discounted return.
    """

    def __init__(self, observation_size: int, action_size: int, config: DictConfig, generator: np.random.Generator) -> None:
        self.generator = generator
        self.gamma: float = config.gamma
        self.tau: float = config.tau
        self.policy_delay: int = config.algorithm.policy_delay
        self.target_noise: float = config.algorithm.target_noise
        self.target_noise_clip: float = config.algorithm.target_noise_clip
        self.updates = 0

        policy_sizes = [observation_size, *config.nn, action_size]
        critic_sizes = [observation_size + action_size, *config.nn, 1]
        all_sizes = [policy_sizes] + [critic_sizes] * config.algorithm.n_critics
        self.networks = [MLP(sizes, initial_parameters(sizes, generator)) for sizes in all_sizes]
        self.targets = [MLP(network.sizes, network.parameters.copy()) for network in self.networks]
        self.optimisers = [Adam(network, config.learning_rate) for network in self.networks]
        self.policy, *self.critics = self.networks
        self.target_policy, *self.target_critics = self.targets

    def act(self, observation: Array, noise: float = 0.0) -> Array:
        """Choose an action [1] for an observation [3], with noise of this standard deviation."""
        action = np.tanh(self.policy.forward(observation))
        return np.clip(action + noise * self.generator.standard_normal(action.shape, np.float32), -1, 1)

    def update(self, batch: Transitions) -> float:
        """Learn from a batch of transitions, and return the loss of the critics."""
        loss = self.update_critics(batch)
        self.updates += 1
        if self.updates % self.policy_delay == 0:
            self.update_policy(batch.observations)
            self.update_targets()
        return loss

    def target_values(self, batch: Transitions) -> Array:
        """Return the values [batch, 1] to regress the critics on (Fujimoto et al., equations 10 and 14)."""
        actions = np.tanh(self.target_policy.forward(batch.next_observations))
        noise = self.target_noise * self.generator.standard_normal(actions.shape, np.float32)
        actions += np.clip(noise, -self.target_noise_clip, self.target_noise_clip)
        inputs = np.hstack([batch.next_observations, np.clip(actions, -1, 1)])
        values = np.min([critic.forward(inputs) for critic in self.target_critics], axis=0)
        return batch.rewards + self.gamma * (1 - batch.terminals) * values

    def update_critics(self, batch: Transitions) -> float:
        """Take a step towards the target values, and return the mean squared error before it."""
        targets = self.target_values(batch)
        inputs = np.hstack([batch.observations, batch.actions])
        loss = 0.0
        for critic, optimiser in zip(self.critics, self.optimisers[1:], strict=True):
            errors = critic.forward(inputs) - targets
            critic.backward(2 / len(errors) * errors)
            optimiser.step()
            loss += float(np.mean(errors**2)) / len(self.critics)
        return loss

    def update_policy(self, observations: Array) -> None:
        """Take a step towards actions that the first critic values more (Lillicrap et al., equation 6)."""
        actions = np.tanh(self.policy.forward(observations))
        values = self.critics[0].forward(np.hstack([observations, actions]))
        gradient = self.critics[0].backward(np.full_like(values, -1 / len(values)))
        self.policy.backward(gradient[:, observations.shape[1] :] * (1 - actions**2))
        self.optimisers[0].step()

    def update_targets(self) -> None:
        """Let the target networks follow the trained ones slowly."""
        for network, target in zip(self.networks, self.targets, strict=True):
            target.parameters += self.tau * (network.parameters - target.parameters)


def make_environment() -> Environment:
    """Return a pendulum to swing up with actions in [-1, 1]; an episode is truncated after 200 steps (10 s)."""
    environment: Environment = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    return gymnasium.wrappers.RescaleAction(environment, np.float32(-1), np.float32(1))


def evaluate(agent: Agent, environment: Environment, episodes: int, first_seed: int) -> float:
    """Return the mean undiscounted return of the policy without noise, over episodes with consecutive seeds."""
    total = 0.0
    for seed in range(first_seed, first_seed + episodes):
        observation, _ = environment.reset(seed=seed)
        done = False
        while not done:
            observation, reward, terminated, truncated, _ = environment.step(agent.act(observation))
            total += float(reward)
            done = terminated or truncated
    return total / episodes


def train(config: DictConfig) -> float:
    """Train an agent, log metrics on the way, and return the mean return of the final evaluation."""
    job = current_job()
    generator = np.random.default_rng(config.seed)
    environment, evaluation_environment = make_environment(), make_environment()
    environment.action_space.seed(config.seed)
    observation, _ = environment.reset(seed=config.seed)
    sizes = len(observation), len(environment.action_space.sample())
    agent = Agent(*sizes, config, generator)
    buffer = ReplayBuffer(config.buffer_size, *sizes)
    episode_return = critic_loss = evaluation_return = 0.0

    for step in range(1, config.steps + 1):
        warming_up = step <= config.warm_up_steps
        action = environment.action_space.sample() if warming_up else agent.act(observation, config.exploration_noise)
        next_observation, reward, terminated, truncated, _ = environment.step(action)
        buffer.add(observation, action, float(reward), float(terminated), next_observation)
        observation = next_observation
        episode_return += float(reward)
        if not warming_up:
            critic_loss = agent.update(buffer.sample(config.batch_size, generator))

        if terminated or truncated:
            job.log_metrics(step=step, episode_return=episode_return, critic_loss=critic_loss)
            observation, _ = environment.reset()
            episode_return = 0.0
        if step % config.evaluation_interval == 0 or step == config.steps:
            evaluation_return = evaluate(
                agent, evaluation_environment, config.evaluation_episodes, config.evaluation_seed
            )
            job.log_metrics(step=step, evaluation_return=evaluation_return)
            logger.info("Step %d: the mean evaluation return is %.1f", step, evaluation_return)
    return evaluation_return


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """Run the experiment that the config describes, and return what a sweep may optimise."""
    return train(config)


if __name__ == "__main__":
    main()
