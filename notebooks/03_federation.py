# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Federated methods: five choices, and one of your own
#
# A federated method is a TOML file, a *recipe*. What makes it that method are five choices:
#
# | choice | tables of the recipe | FedAvg's |
# |---|---|---|
# | which parameters travel | `[scope]`, `[network]` | all but data consistency |
# | how the server combines them | `[federation]` | mean, weighted by training slices |
# | what a site minimizes | `[objective]`, `training.loss` | L1 distance to the reference |
# | what happens to an update before it leaves | `[transform]` | nothing |
# | what a site does for itself afterwards | `[personal]` | nothing |
#
# Every key stands in `federation/recipes/library/README.md`. The hospitals here are tiny and the training takes
# seconds: the notebook shows how methods are made and compared, its numbers say nothing about which is good.

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
hospitals = load_federation(work / "sites")
small = ["network.cascades=3", "network.channels=8", "training.steps_per_round=8", "federation.rounds=4"]
fedavg = load_recipe("fedavg", small)
print(", ".join(f"{site.name}: {site.simulate.sampling}" for site in hospitals))

# %% [markdown]
# ## What travels
# One round of FedAvg by hand: the server sends bytes and a site answers with bytes. Each site's data consistency, here
# one step size per cascade, stays where it is.

# %%
network = initial_network(partial(build_network, fedavg.network), fedavg.federation.seed)
scope = parameter_scope(network, fedavg.scope.rules())
print("kept:  ", ", ".join(scope.kept))
print("shared:", ", ".join(scope.shared[:6]), f"... ({len(scope.shared)} tensors)")

algorithm = FederatedAlgorithm()
start = algorithm.start(parameters_of(network, scope.shared))
updates = []
for site in hospitals:
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
# A scope is a list of patterns of parameter names. With the last layer of every cascade kept at its site this is FedPer
# (`fedrecon recipes fedper` prints it). Below, `local` is every site on its own, for as many steps.

# %%
recipe = load_recipe("fedper", [*small, "evaluation.arms=['local']"])
run = train_run(recipe, hospitals, work / "fedper", jobs=1, resume=False, say=lambda text: None)
bytes_up = [row["bytes_up"] for row in read_rows(run.path) if row["round"] == 0]
print(f"{recipe.scope.keep} stay: {bytes_up[0]} bytes up per site and round, {len(reply)} with FedAvg")
print(text_table(evaluate_run(run.path, jobs=1, say=lambda text: None)))

# %% [markdown]
# ## A server rule of your own
# A rule goes from the broadcast and the sites' parameters to the broadcast of the next round. It is a frozen dataclass
# whose fields are the options of a recipe; what it gets is checked, and weighted means are at hand in float64. This one
# is the geometric median: the point with the least sum of distances to the sites. Sites that hold less than half of the
# weight cannot carry it away.


# %%
def distance(a, b):
    return math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in b))


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
            middle = round_.mean(weights)
            apart = {c.site: max(distance(c.shared, middle), 1e-6) for c in round_.contributions}
            weights = {site: round_.weights[site] / apart[site] for site in apart}
        return round_.step(weights), {}


SERVER_RULES["geometric_median"] = GeometricMedian

# %% [markdown]
# In the package the class stands in `federation/methods/robust_rules.py`, and the last line is an entry of the
# registry in `federation/methods/registries.py`. `tests/federation/methods/test_server_rules.py` then checks that the
# rule has the `invariants` that it declares (the order of the sites does not matter, one site gives local training,
# ...) and no others. One test there also counts how often a rule reads the sites' updates, which wait on disk; a rule
# that reads them more than once, as this one, is named in it.
#
# The round from above once more, with one site whose change is many times too large:

# %%
honest = updates[:3]
target = FederatedAlgorithm().aggregate(start, honest).shared
factors = [1, 10, 100, 1000, 10_000]
moved = {}
for name in ("mean", "median", "geometric_median"):
    rule = SERVER_RULES[name]()
    for factor in factors:
        wrong = {key: x + factor * (updates[3].shared[key] - x) for key, x in start.shared.items()}
        sent = [
            Contribution(u.site, x, u.n_samples, u.n_steps, u.score_before, u.score_after)
            for u, x in zip(updates, [*(u.shared for u in honest), wrong], strict=True)
        ]
        weights = {contribution.site: float(contribution.n_samples) for contribution in sent}
        new, _ = rule.combine(start.shared, rule.start(start.shared), sent, weights, n_sites=len(sent))
        moved.setdefault(name, []).append(distance(new, target) / distance(target, start.shared))

for name, values in moved.items():
    plt.loglog(factors, values, "o-", label=name)
plt.xlabel("one site's change is too large by this factor")
plt.ylabel("distance to the mean of the others,\nrelative to its own step")
plt.legend()
plt.show()

# %% [markdown]
# ## A recipe of your own, and all of them in one table
# A recipe says what differs from the one that it extends. The second needs no code: FedPer, a proximal penalty, and
# updates of eight bits per number.

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
# A comparison gives every arm the same hospitals, network and number of steps. `fedrecon compare mixture.toml` does it
# on the command line; here its preset is cut down to seconds. `jobs=1`, because spawned processes import the package
# anew and would not know a rule that was registered in a notebook.

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
# The page shows every site and draws the intervals; `comparison.json`, `.csv` and `.tex` lie next to it, and every
# volume's score in `scores.csv`.

# %%
print(page)
