"""TD3 and DDPG in NumPy on Gymnasium's Pendulum-v1: an experiment to try Experiment Manager with.

`python train.py seed=3` runs it once, `python train.py -m algorithm=TD3,DDPG seed=1,2,3` six times.
One agent does both; the config group `algorithm` decides whether it is DDPG, of Lillicrap et al. (2015),
arXiv:1509.02971, or TD3, of Fujimoto et al. (2018), arXiv:1802.09477.

Shapes are in brackets: [batch, 3] is a matrix with one row of three numbers per transition.
"""

import copy
import logging
import os
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

# NumPy reads these variables when it is imported. The matrices here are so small that threads would
# mostly wait for each other, and they would take the cores of the other runs of a sweep.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gymnasium
import hydra
import numpy as np
from gymnasium.spaces import flatdim
from numpy.typing import NDArray
from omegaconf import DictConfig

from experiment_manager import current_job

Array: TypeAlias = NDArray[np.floating[Any]]
Environment: TypeAlias = gymnasium.Env[Array, Array]

logger = logging.getLogger(__name__)


class MLP:
    """A multilayer perceptron: linear layers with a ReLU between them.

    A layer is a matrix [inputs + 1, outputs] of its weights and, in the last row, its bias.
    """

    def __init__(self, sizes: list[int], generator: np.random.Generator) -> None:
        """Draw each layer from ±1/√inputs; the sizes are those of the input, hidden layers and output."""
        layers = [generator.uniform(-1, 1, (inputs + 1, outputs)) for inputs, outputs in pairwise(sizes)]
        self.layers: list[Array] = [(layer / (len(layer) - 1) ** 0.5).astype(np.float32) for layer in layers]
        self.gradients = [np.zeros_like(layer) for layer in self.layers]
        self.layer_inputs: list[Array] = []

    def forward(self, values: Array) -> Array:
        """Map inputs [batch, inputs] to outputs [batch, outputs]."""
        self.layer_inputs = []
        for layer in self.layers:
            self.layer_inputs.append(np.maximum(values, 0) if self.layer_inputs else values)
            values = self.layer_inputs[-1] @ layer[:-1]
            values += layer[-1]
        return values

    def backward(self, slope: Array) -> Array:
        """Map the derivatives of a loss by the latest outputs [batch, outputs] to those by the inputs.

        Returns [batch, inputs], and sets the gradients of the layers, which are sums over the batch.
        """
        for index in reversed(range(len(self.layers))):
            inputs, layer, gradient = self.layer_inputs[index], self.layers[index], self.gradients[index]
            np.matmul(inputs.T, slope, out=gradient[:-1])
            slope.sum(axis=0, out=gradient[-1])
            slope = slope @ layer[:-1].T
            if index > 0:
                slope *= inputs > 0  # the derivative of the ReLU
        return slope

    def follow(self, other: "MLP", tau: float) -> None:
        """Move all parameters by this part of the way to those of another network."""
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            layer += tau * (other_layer - layer)


class Adam:
    """The optimiser of Kingma and Ba (2014), arXiv:1412.6980, with the constants they suggest."""

    def __init__(self, network: MLP, learning_rate: float) -> None:
        self.network = network
        self.learning_rate = learning_rate
        self.means = [np.zeros_like(layer) for layer in network.layers]
        self.squares = [np.zeros_like(layer) for layer in network.layers]
        self.steps = 0

    def step(self) -> None:
        """Move the parameters of the network against its gradients."""
        self.steps += 1
        step_size = self.learning_rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        columns = (self.network.layers, self.network.gradients, self.means, self.squares)
        for layer, gradient, mean, square in zip(*columns, strict=True):
            mean += (1 - 0.9) * (gradient - mean)
            square += (1 - 0.999) * (gradient**2 - square)
            layer -= step_size * mean / (np.sqrt(square) + 1e-8)


class Transitions(NamedTuple):
    """What happened in `n` steps of the environment, in one row per step."""

    observations: Array  # [n, 3]: cosine and sine of the angle, angular velocity in rad/s
    actions: Array  # [n, 1]: torque, as a part of the largest one (2 N m)
    rewards: Array  # [n, 1]
    terminals: Array  # [n, 1]: 1 if no reward can follow; an episode that is only cut off has 0
    next_observations: Array  # [n, 3]


class ReplayBuffer:
    """The latest transitions, to learn from more than once."""

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        widths = (observation_size, action_size, 1, 1, observation_size)
        self.transitions = Transitions(*(np.zeros((capacity, width), np.float32) for width in widths))
        self.capacity = capacity
        self.added = 0

    def add(self, *transition: Array | float) -> None:
        """Store one transition, in the order of `Transitions`; when full, in the place of the oldest one."""
        for rows, value in zip(self.transitions, transition, strict=True):
            rows[self.added % self.capacity] = value
        self.added += 1

    def sample(self, batch_size: int, generator: np.random.Generator) -> Transitions:
        """Draw transitions uniformly, with replacement."""
        chosen = generator.integers(min(self.added, self.capacity), size=batch_size)
        return Transitions(*(rows[chosen] for rows in self.transitions))


class Agent:
    """A policy, whose actions lie in [-1, 1], and the critics of them, which estimate discounted returns."""

    def __init__(self, observation_size: int, action_size: int, config: DictConfig) -> None:
        self.gamma, self.tau = config.gamma, config.tau
        self.policy_delay = config.algorithm.policy_delay
        self.target_noise = (config.algorithm.target_noise, config.algorithm.target_noise_clip)
        self.generator = np.random.default_rng(config.seed)
        self.updates = 0
        policy_sizes = [observation_size, *config.nn, action_size]
        critic_sizes = [observation_size + action_size, *config.nn, 1]
        sizes_of_all = [policy_sizes] + [critic_sizes] * config.algorithm.n_critics
        self.networks = [MLP(sizes, self.generator) for sizes in sizes_of_all]
        self.targets = copy.deepcopy(self.networks)
        optimisers = [Adam(network, config.learning_rate) for network in self.networks]
        self.policy, *self.critics = self.networks
        self.target_policy, *self.target_critics = self.targets
        self.policy_optimiser, *self.critic_optimisers = optimisers

    def act(self, observations: Array) -> Array:
        """Return the best known actions [..., 1] for observations [..., 3]."""
        actions: Array = np.tanh(self.policy.forward(observations))
        return actions

    def perturb(self, actions: Array, deviation: float, limit: float = np.inf) -> Array:
        """Add normal noise of this standard deviation, cut off at ±limit, and keep actions in [-1, 1]."""
        noise = deviation * self.generator.standard_normal(actions.shape, np.float32)
        perturbed: Array = np.clip(actions + np.clip(noise, -limit, limit), -1, 1)
        return perturbed

    def target_values(self, batch: Transitions) -> Array:
        """Return the values [batch, 1] that the critics should give (Fujimoto et al., algorithm 1)."""
        actions = np.tanh(self.target_policy.forward(batch.next_observations))
        inputs = np.hstack([batch.next_observations, self.perturb(actions, *self.target_noise)])
        next_values = np.min([critic.forward(inputs) for critic in self.target_critics], axis=0)
        values: Array = batch.rewards + self.gamma * (1 - batch.terminals) * next_values
        return values

    def update(self, batch: Transitions) -> dict[str, float]:
        """Learn from a batch of transitions, and return metrics of the critics."""
        metrics = self.update_critics(batch)
        self.updates += 1
        if self.updates % self.policy_delay == 0:
            self.update_policy(batch.observations)
            for target, network in zip(self.targets, self.networks, strict=True):
                target.follow(network, self.tau)
        return metrics

    def update_critics(self, batch: Transitions) -> dict[str, float]:
        """Take a step against each critic's mean squared error; the metrics have that of the last critic."""
        targets = self.target_values(batch)
        inputs = np.hstack([batch.observations, batch.actions])
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            errors = critic.forward(inputs) - targets
            critic.backward(errors * (2 / len(errors)))
            optimiser.step()
        return {"critic_loss": float(np.mean(errors**2)), "target_value": float(np.mean(targets))}

    def update_policy(self, observations: Array) -> None:
        """Take a step towards actions that the first critic values more (Lillicrap et al., equation 6)."""
        actions = self.act(observations)
        critic = self.critics[0]
        values = critic.forward(np.hstack([observations, actions]))
        slope = critic.backward(np.full_like(values, -1 / len(values)))[:, observations.shape[1] :]
        self.policy.backward(slope * (1 - actions**2))  # the second factor is the derivative of tanh
        self.policy_optimiser.step()


def make_environment() -> Environment:
    """Return a pendulum to swing up, with actions in [-1, 1]; it is cut off after 200 steps (10 s)."""
    pendulum: Environment = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    return gymnasium.wrappers.RescaleAction(pendulum, np.float32(-1), np.float32(1))


def evaluate(agent: Agent, episodes: int, first_seed: int) -> float:
    """Return the mean undiscounted return of episodes with consecutive seeds, without exploration."""
    environment, total = make_environment(), 0.0
    for seed in range(first_seed, first_seed + episodes):
        observation, _ = environment.reset(seed=seed)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(agent.act(observation))
            total += float(reward)
            over = terminated or truncated
    return total / episodes


def train(config: DictConfig) -> float | None:
    """Train an agent, log metrics on the way, and return the mean return of the final evaluation; None where the job
    was told to stop before, as by a pruner."""
    job = current_job()
    environment = make_environment()
    environment.action_space.seed(config.seed)
    observation, _ = environment.reset(seed=config.seed)
    sizes = (flatdim(environment.observation_space), flatdim(environment.action_space))
    agent = Agent(*sizes, config)
    buffer = ReplayBuffer(config.buffer_size, *sizes)
    metrics: dict[str, float] = {}
    episode_return, evaluation_return = 0.0, float("nan")

    for step in range(1, config.steps + 1):
        if step <= config.warm_up_steps:
            action = environment.action_space.sample()
        else:
            action = agent.perturb(agent.act(observation), config.exploration_noise)
        next_observation, reward, terminated, truncated, _ = environment.step(action)
        buffer.add(observation, action, float(reward), float(terminated), next_observation)
        observation = next_observation
        episode_return += float(reward)
        if step > config.warm_up_steps:
            metrics = agent.update(buffer.sample(config.batch_size, agent.generator))

        if terminated or truncated:
            job.log_metrics(step=step, episode_return=episode_return, **metrics)
            observation, _ = environment.reset()
            episode_return = 0.0
        if step % config.evaluation_interval == 0 or step == config.steps:
            evaluation_return = evaluate(agent, config.evaluation_episodes, config.evaluation_seed)
            job.log_metrics(step=step, evaluation_return=evaluation_return)
            logger.info("Step %d: the mean evaluation return is %.1f", step, evaluation_return)
            if job.should_stop():
                return None
    return evaluation_return


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run the experiment that the config describes, and return what a sweep compares."""
    return train(config)


if __name__ == "__main__":
    main()
