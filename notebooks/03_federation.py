# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Federated methods: five choices, and a method of your own
#
# A federated method is a TOML file, a *recipe*. It makes five choices:
#
# | choice | sections of the recipe | FedAvg |
# |---|---|---|
# | which parameters travel | `[scope]`, `[network]` | all but data consistency |
# | how the server combines them | `[federation]` | mean, weighted by training slices |
# | what a site minimizes | `[objective]`, `training.loss` | L1 distance to the reference |
# | how an update is encoded before it leaves the site | `[transform]` | not at all |
# | what a site does after the rounds | `[personal]` | nothing |
#
# `federation/recipes/library/README.md` describes every key. The simulated hospitals are tiny and the training takes
# seconds: this page shows how to make and compare methods; its numbers do not rank them.

# %%
import math
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from federation import (
    INVARIANTS,
    PRESETS,
    SERVER_RULES,
    Arm,
    FederatedAlgorithm,
    ServerRule,
    SiteUpdate,
    TableSpec,
    arm_of,
    build_network,
    evaluate_run,
    load_federation,
    load_recipe,
    make_demo_sites,
    run_comparison,
    site_spec,
    train_run,
)
from federation.methods import Contribution, parameter_scope, parameters_of
from federation.rounds import initial_network, read_rows
from federation.sites import DEMO_SITES
from recon import text_table

torch.set_num_threads(1)
work = Path(tempfile.mkdtemp(prefix="fedrecon_"))
make_demo_sites(work / "sites", size=32, slices=2, train=2, validation=1, test=1, sites=DEMO_SITES[:4])
sites = load_federation(work / "sites")
small = ["network.cascades=3", "network.channels=8", "training.steps_per_round=8", "federation.rounds=4"]
fedavg = load_recipe("fedavg", small)
print(", ".join(f"{site.name}: {site.simulate.sampling}" for site in sites))

# %% [markdown]
# ## What travels
# One round of FedAvg: the server sends bytes and every site replies with bytes. Data consistency, here two step sizes
# per cascade, stays at the site. (`notebooks/04_one_round.py` explains each line.)

# %%
network = initial_network(partial(build_network, fedavg.network), fedavg.federation.seed)
scope = parameter_scope(network, fedavg.scope.rules())
print("kept:  ", ", ".join(scope.kept))
print("shared:", ", ".join(scope.shared[:6]), f"... ({len(scope.shared)} tensors)")

algorithm = FederatedAlgorithm()
start = algorithm.start(parameters_of(network, scope.shared))
updates = []
for site in sites:
    broadcast = algorithm.broadcast(start, site.name)
    request = broadcast.to_bytes()
    reply = site_spec(site, fedavg, work / "kept" / site.name, work / "maps" / site.name).build().handle(request)
    update = SiteUpdate.from_bytes(reply, broadcast=broadcast)
    updates.append(update)
    print(f"{site.name:6s} {len(request)} bytes down, {len(reply)} up, loss {update.loss:.3f}")
print(f"parameters alone: {sum(tensor.nbytes for tensor in update.shared.values())} bytes")
print("beside them:", ", ".join(update.header()))
after = algorithm.aggregate(start, updates)
print(f"server: round {after.round}, digest {after.digest[:12]}")

# %% [markdown]
# ## Keeping a part
# A scope is a list of patterns of parameter names. FedPer keeps the last layer of every cascade at its site
# (`fedrecon recipes fedper` prints the recipe). The arm `local` trains every site alone, with as many steps.

# %%
recipe = load_recipe("fedper", [*small, "evaluation.arms=['local']"])
run = train_run(recipe, sites, work / "fedper", jobs=1, resume=False, say=lambda text: None)
bytes_up = [row["bytes_up"] for row in read_rows(run.path) if row["round"] == 0]
print(f"kept: {recipe.scope.keep}; {bytes_up[0]} bytes up per site and round, {len(reply)} with FedAvg")
print(text_table(evaluate_run(run.path, jobs=1, say=lambda text: None)))

# %% [markdown]
# ## A server rule of your own
# A server rule computes the next broadcast from the last one and the parameters of the sites. It is a frozen dataclass
# whose fields are the options in a recipe; its base class checks the updates and computes weighted means in float64.
# The geometric median is the point with the least sum of distances to the sites: sites with less than half of the
# weight cannot move it arbitrarily far.


# %%
def distance(a, b):
    return math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in b))


@SERVER_RULES.add("geometric_median")
@dataclass(frozen=True)
class GeometricMedian(ServerRule):
    """argmin over z of the sum of w_s ||z - x_s||, by Weiszfeld's iteration from the mean.

    Pillutla et al., Robust Aggregation for Federated Learning, IEEE Trans. Signal Process., 2022.
    """

    iterations: int = 16
    invariants = INVARIANTS

    def _combine(self, round_):
        weights = round_.weights
        for _ in range(self.iterations):
            center = round_.mean(weights)
            distances = {c.site: max(distance(c.shared, center), 1e-6) for c in round_.contributions}
            weights = {site: round_.weights[site] / distances[site] for site in distances}
        return round_.step(weights), {}


# %% [markdown]
# In a Python file, this class is a plugin: a recipe names the file with `plugins = ["my_rules.py"]`. In the package it
# would be in `federation/methods/robust_rules.py`, with an entry of `SERVER_RULES` in
# `federation/methods/registries.py`. `tests/federation/methods/test_server_rules.py` then tests that the rule has the
# `invariants` that it declares (independence of the order of sites, local training for a single site, ...) and no
# others. It also counts how often a rule reads the updates, which are stored on disk, and lists the rules that read
# them more than once, as this one does.
#
# The same round with a fourth site whose change is too large by a growing factor:

# %%
honest = updates[:3]
target = FederatedAlgorithm().aggregate(start, honest).shared
factors = [1, 10, 100, 1000, 10_000]
moved = {}
for name in ("mean", "median", "geometric_median"):
    rule = SERVER_RULES[name]()
    for factor in factors:
        wrong = {key: x + factor * (updates[3].shared[key] - x) for key, x in start.shared.items()}
        contributions = [
            Contribution(u.site, x, u.n_samples, u.n_steps, u.score_before, u.score_after)
            for u, x in zip(updates, [*(u.shared for u in honest), wrong], strict=True)
        ]
        weights = {c.site: float(c.n_samples) for c in contributions}
        new, _ = rule.combine(start.shared, rule.start(start.shared), contributions, weights, n_sites=len(sites))
        moved.setdefault(name, []).append(distance(new, target) / distance(target, start.shared))

for name, values in moved.items():
    plt.loglog(factors, values, "o-", label=name)
plt.xlabel("one site's change is too large by this factor")
plt.ylabel("distance to the mean of the others,\nrelative to its own step")
plt.legend()
plt.show()

# %% [markdown]
# ## Recipes of your own, and a comparison
# A recipe holds the differences to the recipe that it extends. The second one needs no code: FedPer with a proximal
# penalty and updates of eight bits per number.

# %%
(work / "geometric_median.toml").write_text("""
extends = "fedavg"
name = "geometric_median"
paper = "Pillutla et al., Robust Aggregation for Federated Learning, 2022"

[federation]
server_rule = "geometric_median"
server_options = { iterations = 8 }
""")
(work / "mixture.toml").write_text("""
extends = "fedper"
name = "mixture"

[objective]
proximal = 1e-3

[transform]
chain = ["int8"]
""")
mine = [arm_of(work / f"{name}.toml") for name in ("geometric_median", "mixture")]

# %% [markdown]
# A comparison trains every arm at the same sites, with the same network and number of steps. On the command line that
# is `fedrecon compare mixture.toml`; here a smaller preset takes seconds. `jobs=1` runs everything in this process:
# worker processes know the rules of plugins, but not those of a notebook.

# %%
laptop = PRESETS["laptop"]
network = laptop.budgets["mri"].network.model_copy(update={"cascades": 3})
budget = replace(laptop.budgets["mri"], network=network, rounds=4, steps_per_round=8, tv_weights=(1e-2,))
tiny = replace(
    laptop,
    name="tiny",
    size=32,
    slices=2,
    test=2,
    budgets={"mri": budget},
    arms=(Arm("classical", kind="classical"), Arm("local", kind="local"), Arm("fedavg")),
    tables=(TableSpec("together", ("classical", "local", "fedavg"), seeds=1, train=1),),
)
page = run_comparison(tiny, work / "comparison", modalities=("mri",), extra=mine, jobs=1, say=print)

# %% [markdown]
# The page shows every site and plots the intervals. Beside it: `comparison.json`, `.csv`, `.tex`, and `scores.csv`
# with the scores of every volume.

# %%
print(page)
