"""The example experiment: its gradients are right, it is reproducible, it learns, and the config decides."""

import ast
import copy
import itertools
import re
import sys
import tomllib
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import DictConfig

import train

ROOT = Path(__file__).parent.parent
NAMES = {"hydra": "hydra-core"}
"""Of packages that are imported by another name."""
SHORT = ("steps=300", "warm_up_steps=100", "batch_size=16", "evaluation_episodes=2")


@pytest.mark.parametrize(
    ("page", "what"),
    [("README.md", "."), ("docs/tutorial/slurm.md", "."), ("docs/index.md", "hydra-experiment-manager")],
)
def test_what_a_page_installs_runs_the_program_of_a_clone(page: str, what: str) -> None:
    """The extras that a page names bring all that the program imports."""
    named = re.search(rf"pip install '{re.escape(what)}\[([a-z,]+)\]'", (ROOT / page).read_text())
    assert named is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in named[1].split(",")]
    brought = {re.split(r"[^\w-]", line)[0] for line in itertools.chain(project["dependencies"], *extras)}
    modules = {
        name.partition(".")[0]
        for node in ast.parse((ROOT / "train.py").read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    needed = {NAMES.get(name, name) for name in modules - sys.stdlib_module_names - {"experiment_manager"}}
    assert set() == needed - brought


def compose(*overrides: str) -> DictConfig:
    """The config of `python train.py` with these overrides."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return hydra.compose("config", list(overrides))


def make_agent(algorithm: str) -> train.Agent:
    return train.Agent(observation_size=3, action_size=1, config=compose(f"algorithm={algorithm}"))


def random_batch() -> train.Transitions:
    generator = np.random.default_rng(0)
    widths = (3, 1, 1, 1, 3)
    return train.Transitions(*(generator.standard_normal((32, width), np.float32) for width in widths))


def equal(one: train.MLP, other: train.MLP) -> bool:
    return all(map(np.array_equal, one.layers, other.layers))


def random_return() -> float:
    """The mean return of uniformly random actions in 10 episodes."""
    environment = train.make_environment()
    environment.action_space.seed(0)
    total = 0.0
    for seed in range(10):
        environment.reset(seed=seed)
        truncated = False
        while not truncated:
            _, reward, _, truncated, _ = environment.step(environment.action_space.sample())
            total += float(reward)
    return total / 10


def test_backward_is_the_derivative() -> None:
    """What `backward` says of the parameters and the inputs agrees with central differences."""
    generator = np.random.default_rng(0)
    network = train.MLP([3, 5, 4, 2], generator)
    network.layers = [layer.astype(np.float64) for layer in network.layers]
    network.gradients = [np.zeros_like(layer) for layer in network.layers]
    inputs = generator.standard_normal((7, 3))
    slope = generator.standard_normal((7, 2))

    def difference(array: train.Array, index: tuple[int, ...]) -> float:
        """The derivative of the loss sum(slope * outputs) by one number of an array."""
        original, losses = array[index], []
        for nudged in (original + 1e-6, original - 1e-6):
            array[index] = nudged
            losses.append(np.sum(slope * network.forward(inputs)))
        array[index] = original
        return float(losses[0] - losses[1]) / 2e-6

    network.forward(inputs)
    by_inputs = network.backward(slope)
    pairs = [(inputs, by_inputs), *zip(network.layers, network.gradients, strict=True)]
    for array, gradient in pairs:
        expected = [difference(array, index) for index in np.ndindex(array.shape)]
        np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("algorithm", ["TD3", "DDPG"])
def test_the_seed_decides(algorithm: str) -> None:
    """The same seed gives exactly the same return, and another seed gives another one."""
    runs = [(f"algorithm={algorithm}", f"seed={seed}", *SHORT) for seed in (5, 5, 6)]
    first, again, other = (train.train(compose(*overrides)) for overrides in runs)
    assert first == again
    assert first != other


def test_evaluation_only_looks() -> None:
    """How often the policy is evaluated has no influence on what is learned."""
    rarely, often = (train.train(compose(f"evaluation_interval={steps}", *SHORT)) for steps in (300, 70))
    assert rarely == often


def test_a_default_run_learns() -> None:
    """After a run with the default config the pendulum is swung up, which random actions are far from; it is evaluated
    at its end alone, which changes nothing of what it returns."""
    config = compose()
    config.evaluation_interval = config.steps
    found = train.train(config)
    assert found is not None
    assert random_return() + 600 < found


@pytest.mark.parametrize(("algorithm", "critics"), [("TD3", 2), ("DDPG", 1)])
def test_the_config_group_decides_the_critics(algorithm: str, critics: int) -> None:
    """TD3 has twin critics, each with its target network, and DDPG has one."""
    agent = make_agent(algorithm)
    assert critics == len(agent.critics) == len(agent.target_critics)


@pytest.mark.parametrize(("algorithm", "changes"), [("TD3", [False, True, False]), ("DDPG", [True, True])])
def test_the_config_group_decides_the_delay(algorithm: str, changes: list[bool]) -> None:
    """Each update changes the critics; with TD3 only each second one changes policy and target networks."""
    agent, batch = make_agent(algorithm), random_batch()

    for expected in changes:
        critics, delayed = copy.deepcopy((agent.critics, [agent.policy, *agent.targets]))
        agent.update(batch)
        assert not any(equal(old, new) for old, new in zip(critics, agent.critics, strict=True))
        for old, new in zip(delayed, [agent.policy, *agent.targets], strict=True):
            assert expected == (not equal(old, new))


@pytest.mark.parametrize(("algorithm", "differs"), [("TD3", True), ("DDPG", False)])
def test_the_config_group_decides_the_target_noise(algorithm: str, differs: bool) -> None:
    """With TD3 the target values of a batch have noise in them; with DDPG they are always the same."""
    agent, batch = make_agent(algorithm), random_batch()
    assert differs == (not np.array_equal(agent.target_values(batch), agent.target_values(batch)))


def test_nothing_follows_a_terminal() -> None:
    """A target value counts on what follows a transition, unless the transition is terminal."""
    agent, batch = make_agent("DDPG"), random_batch()
    ends = batch._replace(terminals=np.ones_like(batch.terminals))
    goes_on = batch._replace(terminals=np.zeros_like(batch.terminals))
    np.testing.assert_array_equal(batch.rewards, agent.target_values(ends))
    assert not np.any(batch.rewards == agent.target_values(goes_on))


def test_a_time_limit_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pendulum's episode is cut off after 200 steps, and no transition of it is stored as terminal."""
    add, terminals = train.ReplayBuffer.add, []

    def add_and_note(buffer: train.ReplayBuffer, *transition: train.Array | float) -> None:
        terminals.append(transition[3])
        add(buffer, *transition)

    monkeypatch.setattr(train.ReplayBuffer, "add", add_and_note)
    train.train(compose(*SHORT))
    assert [0.0] * 300 == terminals
