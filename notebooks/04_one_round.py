# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # One round of federated averaging
#
# A federation is a loop over rounds. In each round the server broadcasts the shared parameters; every site loads them,
# trains on its scans and replies with its new shared parameters; the server averages the replies. Parameters that model
# the physics of one scanner, here the step sizes of data consistency, are *kept*: they never leave their site.
#
# This page writes two rounds at two small simulated sites with the parts that `run_rounds` is made of, and ends with
# the same bits as `run_rounds`.

# %%
import tempfile
from pathlib import Path

import torch

from federation import (
    FederatedAlgorithm,
    SiteUpdate,
    load_federation,
    load_recipe,
    make_demo_sites,
    run_rounds,
    site_spec,
)
from federation.methods import parameters_of
from federation.rounds import InProcessRuntime, read_rows
from federation.serialization import digest, load_checkpoint
from federation.sites import DEMO_SITES

torch.set_num_threads(1)  # the number of threads decides the last bits of a sum
work = Path(tempfile.mkdtemp(prefix="fedrecon_"))
make_demo_sites(work / "sites", size=32, slices=2, train=2, validation=1, test=1, sites=DEMO_SITES[:2])
manifests = load_federation(work / "sites")
settings = ["network.cascades=3", "network.channels=8", "training.steps_per_round=4", "federation.rounds=2"]
recipe = load_recipe("fedavg", settings)

# %% [markdown]
# ## What is shared, what is kept
# A `SiteSpec` describes a site: its data, the recipe, the folder of its kept state. `build()` makes the `Site`, whose
# network comes from the seed of the recipe, so that it is the same at every site. The *scope* says which of its
# parameters are shared.


# %%
def specs_in(folder):
    return [site_spec(m, recipe, folder / m.name, work / "maps" / m.name) for m in manifests]


site = specs_in(work / "unused")[0].build()
print("kept:  ", ", ".join(site.scope.kept))
print("shared:", ", ".join(site.scope.shared[:4]), f"... ({len(site.scope.shared)} tensors)")
numbers = sum(tensor.numel() for tensor in site.initial_shared.values())
print(f"{numbers} shared numbers, {4 * numbers} bytes in single precision")

# %% [markdown]
# ## The server
# `FederatedAlgorithm` is the server's computation: pure functions from one `ServerState` to the next. Without
# arguments it is federated averaging (McMahan et al., 2017).

# %%
server = FederatedAlgorithm()
state = server.start(site.initial_shared)
print(f"round {state.round}, digest of the shared parameters {state.digest[:12]}")

# %% [markdown]
# ## A round, step by step
# Server and site exchange bytes and nothing else. At the site, `handle` turns the request into the reply:
#
# 1. It reads the broadcast, checks names, shapes and values, loads the parameters and compares their digest (SHA-256).
# 2. It scores them on the validation slices, together with the kept parameters of the round before.
# 3. It trains all of them for `steps_per_round` steps and scores the result.
# 4. It stores the kept state for the next round and replies with the shared parameters.


# %%
def one_round(state, specs):
    updates = []
    for spec in specs:
        broadcast = server.broadcast(state, spec.name)
        request = broadcast.to_bytes()
        reply = spec.build().handle(request)
        update = SiteUpdate.from_bytes(reply, broadcast=broadcast)
        assert update.loaded_digest == state.digest  # the site has started from exactly these parameters
        print(f"round {state.round}  {spec.name:6s} {len(request)} bytes down, {len(reply)} up, loss {update.loss:.4f}")
        updates.append(update)
    return updates


specs = specs_in(work / "by_hand")
updates = one_round(state, specs)
print("header of a reply:", updates[0].header())

# %% [markdown]
# A message is its numbers and about 800 bytes. The header holds these fields and no others: no file names, no masks, no
# coil maps.
#
# ## The average
# The server weighs the replies by the number of training slices. `aggregate` sums in double precision and rounds once.
# By hand it is one line, with the same bits.

# %%
weights = [update.n_samples for update in updates]
mean = {
    name: (sum(w * u.shared[name].double() for w, u in zip(weights, updates, strict=True)) / sum(weights)).float()
    for name in state.shared
}
state = server.aggregate(state, updates)
print(f"weights {weights}; by hand {digest(mean)[:12]}, by the server {state.digest[:12]}")
assert digest(mean) == state.digest

# %% [markdown]
# ## The kept parameters never travel
# After the second round the step sizes differ between the sites, as their scanners do. A reply holds their digest only.
# The folder of the kept state holds them, and the optimizer moments of all parameters.

# %%
updates = one_round(state, specs)
state = server.aggregate(state, updates)
for spec, update in zip(specs, updates, strict=True):
    network = spec.build().network_at(state.shared, state.round)
    kept = parameters_of(network, site.scope.kept)
    assert digest(kept) == update.kept_digest and not kept.keys() & update.shared.keys()
    print(spec.name, *(f"{name} {value.mean():+.4f}" for name, value in kept.items()))
    names = load_checkpoint(spec.folder, state.round).tensors
    print("  stored:", ", ".join(sorted({name.split(".")[0] for name in names})), f"({len(names)} tensors)")

# %% [markdown]
# ## The same by `run_rounds`
# `run_rounds` is this loop with checkpoints, a log of every round, a quorum of valid replies, and one last round in
# which the sites only score. `InProcessRuntime` delivers the bytes on this machine; a deployment delivers them over the
# network, to the same `handle`.

# %%
with InProcessRuntime(specs_in(work / "by_loop")) as runtime:
    result = run_rounds(server, runtime, site.initial_shared, work / "by_loop", rounds=2)
print(f"by hand {state.digest[:12]}, by run_rounds {result.state.digest[:12]}")
assert result.state.digest == state.digest
for row in read_rows(work / "by_loop"):
    print(f"round {row['round']}  {row['site']:6s} {row['score_before']:.2f} dB, kept {row['kept_digest'][:12]}")
