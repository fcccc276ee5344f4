# The words for the keyboard; .ci/run calls the same. The Python ones work in .venv, which the first of them makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-paper demo-search docs recording test test-heavy faults fuzz check bench bench-quick versions versions-oldest versions-newest format test-cluster cluster-up cluster-down clean venv
.DELETE_ON_ERROR:

venv: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)  # one that is there stays with its own Python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps hydra-optuna-sweeper  # asks for Optuna < 3
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --version >/dev/null  # its plugins are kept as it rewrites them
	touch $@

demo: $(STAMP)  ## six jobs of a real experiment, their states, and mean and deviation over seeds
	$(BIN)/python train.py -m algorithm=TD3,DDPG seed=1,2,3
	$(BIN)/experiment-manager status experiments/train
	$(BIN)/experiment-manager results experiments/train
	$(BIN)/experiment-manager results experiments/train --group-by algorithm

demo-search: $(STAMP)  ## twenty trials of TD3's learning rate, tau and widths; those that do worse end early
	$(BIN)/python train.py -m hydra/sweeper=experiment_optuna hydra.sweeper.experiment_name=search \
	    hydra.sweeper.n_trials=20 hydra.sweeper.sampler.seed=1 hydra.sweeper.metric=evaluation_return \
	    hydra.sweeper.direction=maximize 'hydra.sweeper.pruner={name: asha, min_steps: 2000, reduction_factor: 2}' \
	    'learning_rate=tag(log, interval(1e-4, 1e-2))' 'tau=tag(log, interval(1e-3, 1e-1))' \
	    'nn=choice([32, 32], [64, 64], [128, 128])'
	$(BIN)/experiment-manager status experiments/search
	$(BIN)/experiment-manager report experiments/search --goal max

demo-paper: PAPER := experiments/paper --by algorithm --metric evaluation_return
demo-paper: $(STAMP)  ## two algorithms with eight seeds each, compared: a table and figures for a paper, under three minutes
	$(BIN)/python train.py -m hydra.sweeper.experiment_name=paper algorithm=TD3,DDPG seed=1,2,3,4,5,6,7,8 \
	    steps=4000 evaluation_interval=500
	mkdir -p build/paper
	$(BIN)/experiment-manager compare $(PAPER)
	$(BIN)/experiment-manager compare $(PAPER) --format latex > build/paper/table.part
	mv build/paper/table.part build/paper/table.tex
	$(BIN)/experiment-manager plot $(PAPER) --kind curves --out build/paper/curves.pdf
	$(BIN)/experiment-manager plot $(PAPER) --kind intervals --out build/paper/intervals.pdf
	$(BIN)/experiment-manager plot $(PAPER) --kind profile --out build/paper/profile.pdf
	@echo "the table, for \usepackage{booktabs}: build/paper/table.tex"
	@echo "the figures: build/paper/curves.pdf, build/paper/intervals.pdf, build/paper/profile.pdf"

# Three workers for two processors: the one that has the cluster waits for SLURM most of the time.
test: $(STAMP)  ## everything that is tested, on real processes, files and, where root can start one, a real SLURM cluster
	$(BIN)/python -m pytest -n 3 --dist loadgroup

faults: $(STAMP)  ## every fault at every call of every scenario, and a table: make faults MINUTES=60 SCENARIOS=sweep FAULTS=kill
	$(BIN)/python -m tests.faults $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SCENARIOS),--scenarios $(SCENARIOS)) \
	    $(if $(FAULTS),--faults $(FAULTS)) $(if $(RESULTS),--results $(RESULTS)) $(if $(EACH_KIND),--each-kind)

fuzz: $(STAMP)  ## property tests with twenty times as many examples, others in each call; readers with libFuzzer: SECONDS=60 each
	EXPERIMENT_MANAGER_FUZZ=20 $(BIN)/python -m pytest -n 2 --dist loadgroup -m hypothesis
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz $(if $(SECONDS),--seconds $(SECONDS))

test-cluster: $(if $(SLURM),,$(STAMP))  ## all on the cluster, also what takes minutes (heavy); SLURM=24.11: on another version
	$(if $(SLURM),tests/cluster/debian.sh $(SLURM) ,$(BIN)/)python -m pytest -m 'heavy or not heavy' tests/cluster

test-heavy: $(STAMP)  ## what takes minutes without a cluster: other programs in environments of their own, long simulations
	$(BIN)/python -m pytest -n 2 -m heavy --ignore=tests/cluster tests

check: $(STAMP)  ## lint, format, types, layers; the other rules are tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_house.py

docs: $(STAMP)  ## the documentation as pages, in build/docs; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs

recording: $(STAMP)  ## the picture of a terminal in the README, while the demo runs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	mkdir -p build && $(BIN)/python docs/terminal.py > build/terminal.svg && mv build/terminal.svg docs/terminal.svg

bench: $(STAMP)  ## us beside our peers, on this machine, an hour: make bench ROWS='planning start' OUT=benchmarks/RESULTS.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks $(ROWS) $(SIZE) $(if $(OUT),--out $(OUT))

bench-quick: SIZE := --quick
bench-quick: bench  ## the same at sizes that only show that it works, under two minutes

versions:  ## what touches Hydra, on the oldest and the newest Hydra that we promise (heavy)
	$(MAKE) versions-oldest
	$(MAKE) versions-newest

versions-oldest: PINS := 'hydra-core==1.3.2' 'omegaconf==2.3.0'
versions-newest: PINS := 'hydra-core==1.4.0rc3' 'omegaconf>=2.4'
versions-oldest versions-newest:
	rm -rf $(VENV)-versions && $(PYTHON) -m venv $(VENV)-versions
	$(VENV)-versions/bin/python -m pip install --quiet --editable . $(PINS) pytest pytest-xdist hypothesis numpy
	$(VENV)-versions/bin/python -m pytest -n 2 -m 'heavy or not heavy' tests/test_apps.py tests/test_process.py tests/test_callback.py \
	    tests/test_hydra_suites.py tests/test_interpolations.py tests/test_kept_compose.py tests/test_launchers.py tests/test_snapshot.py \
	    tests/test_dry_run.py tests/test_from_python.py tests/test_private_names.py tests/test_sweep.py tests/test_sweep_settings.py \
	    tests/test_install.py::test_each_plugin_is_declared_and_registered_once \
	    -k 'not joblib and not optuna and not zen'

format: $(STAMP)  ## lint and format what can be mended by a machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster-up:  ## a real SLURM cluster on this machine, for the tests in tests/cluster, which start it themselves (root, Debian)
	tests/cluster/up.sh

cluster-down:  ## stop it; with --purge the script also forgets its jobs and accounts
	tests/cluster/down.sh

clean:
	rm -rf $(VENV) $(VENV)-versions build dist .mypy_cache .pytest_cache .ruff_cache
