"""Methods for heads on the simulated hospitals of `fedrecon sites make demo-task`: pretraining, arms, updates.

    OMP_NUM_THREADS=1 python benchmarks/head_methods.py OUT [--only arms] [--seeds 3] [--labeled 1]

Heads learn on reference images and are scored on them, so the reconstruction network is not read; it is not trained.
Printed are Dice or AUC over the test people of the FLAIR sites, the other sites, and all, with 95 % intervals over
people, and paired differences.

- **pretraining**: a U-Net fills hidden patches of the images of all training people, without labels. Then a head learns
  the labels of ``--labeled`` people a site, from the start and from the pretrained encoder, with the same steps.
- **arms**: classification with all labels by FedAvg, FedProx, SCAFFOLD, Ditto, LoRA on the pretrained encoder, every
  site alone, and the data of all sites in one place.
- **updates**: a head of the sites ``north`` and ``south`` goes on at ``east`` and ``west``, whose contrast is another
  one; scored at the old sites before and after, and after an update at all four.
"""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from federation.experiment import CentralArm, ReconstructionTask, RunFolder, site_network, train_run
from federation.experiment.centralized import central_arm
from federation.recipes import load_recipe
from federation.sites import load_federation, make_task_demo_sites
from recon import PersonPrediction, TaskKind, head_input, probabilities, task_differences, task_network_of, task_scores

OLD, NEW = ("north", "south"), ("east", "west")
PLACES = {OLD: "FLAIR", NEW: "T1c, DWI", OLD + NEW: "all"}
SEGMENTATION, CLASSIFICATION = "segmentation", "classification"
#: Recipe of a head that reads reference images, by kind of task.
RECIPES = {
    SEGMENTATION: ("downstream/reference",),
    CLASSIFICATION: ("downstream/classification", "task.input=reference"),
}
SCORE = {SEGMENTATION: "dice", CLASSIFICATION: "auc"}
#: Predictions for the test people.
Told = list[PersonPrediction]


class Bench:
    """Sites and runs in one folder; a run that is there is not trained again."""

    def __init__(self, out: Path, rounds: int) -> None:
        self.out, self.rounds = out, rounds
        for kind in (SEGMENTATION, CLASSIFICATION):
            if not (out / kind).exists():
                make_task_demo_sites(out / kind, kind=kind)  # type: ignore[arg-type]
        if not (out / "base").exists():
            short = ["federation.rounds=1", "training.steps_per_round=1", "network.cascades=1"]
            self._train(load_recipe("demos/fedavg_task", short), self.sites(SEGMENTATION), "base")

    def sites(self, kind: str, names: Sequence[str] = OLD + NEW, people: int | None = None) -> Path:
        """A folder of the manifests of some sites, with so many training people."""
        folder = self.out / f"{kind}_{'_'.join(names)}_{people or 'all'}"
        folder.mkdir(exist_ok=True)
        for name in names:
            path = self.out / kind / f"{name}.toml"
            table = tomllib.loads(path.read_text())
            table["data"]["root"] = str((path.parent / table["data"].get("root", ".")).resolve())
            table["data"]["train"] = table["data"]["train"][:people]
            (folder / path.name).write_text(tomli_w.dumps(table))
        return folder

    def head(
        self, name: str, kind: str, sites: Path, *overrides: str, method: str = "", start: str = "base", seed: int = 0
    ) -> RunFolder:
        """Train a head."""
        recipe, *own = RECIPES.get(kind, (kind,))
        how = [f"federation.rounds={self.rounds}", f"federation.seed={seed}", "evaluation.arms=[]", *own, *overrides]
        loaded = load_recipe(recipe + method, how, start_from=self.out / start)
        return self._train(loaded, sites, name)

    def _train(self, recipe: Any, sites: Path, name: str) -> RunFolder:
        if not (self.out / name / "done").exists():
            maps = self.out / "maps"
            print(f"... {name}", flush=True)
            train_run(recipe, load_federation(sites), self.out / name, jobs=1, resume=True, say=str, maps=maps)
            (self.out / name / "done").touch()
        return RunFolder.open(self.out / name)

    def told(self, run: RunFolder, kind: str, names: Sequence[str] = OLD + NEW, arm: str = "") -> Told:
        """Predictions of a run for the test people of some sites, on reference images."""
        found = []
        for manifest in load_federation(self.out / kind):
            if manifest.name not in names:
                continue
            if arm == "centralized":
                central: CentralArm = central_arm(run)
                network = central.network_at(run.manifest(manifest.name), central.train())
            elif arm == "local" or manifest.name in {m.name for m in run.manifests}:
                network = site_network(run, run.manifest(manifest.name), local=arm == "local")
            else:  # a site that did not take part: its head is the shared one
                network = site_network(run, run.manifests[0])
            head = task_network_of(network.eval())
            assert head is not None
            samples = ReconstructionTask(manifest, run.recipe, self.out / "maps" / manifest.name).dataset("test")
            for number, volume in enumerate(samples.volumes):
                chosen = [samples[samples.first(number) + i] for i in range(samples.n_slices(number))]
                with torch.no_grad():
                    logits = head.head(head_input(torch.stack([sample.target() for sample in chosen])))
                truth = np.stack([sample.label.numpy() for sample in chosen if sample.label is not None])
                person = f"{manifest.name} {volume.path.stem}"
                found.append(PersonPrediction(person, truth, probabilities(head.labels, logits).numpy()))
        return found


def keep_samples() -> None:
    """Read every sample once in this process: nothing is augmented, so it is the same in each run."""
    read, kept = ReconstructionTask._slices, {}

    def slices(task: ReconstructionTask, split: Any, augment: Any) -> Any:
        key = (tuple(str(path) for path in task.manifest.files(split)), task.manifest.task)
        if key not in kept:
            dataset, samples = read(task, split, augment), {}
            plain = type(dataset)

            class Kept(plain):  # type: ignore[misc, valid-type]
                def __getitem__(self, index: int) -> Any:
                    if index not in samples:
                        samples[index] = super().__getitem__(index)
                    return samples[index]

            dataset.__class__ = Kept
            kept[key] = dataset
        return kept[key]

    ReconstructionTask._slices = slices  # type: ignore[method-assign]


def say(title: str, kind: TaskKind, told: Told, than: Told | None = None) -> None:
    """Score of all people, and the difference to another head, paired by person."""
    name = SCORE[kind]
    found = task_scores(kind, ("lesion",), told)["classes"]["lesion"]["scores"][name]
    text = f"{title:56s} {name} {found['value']:.3f} {_interval(found)}"
    if than is not None:
        less = task_differences(kind, ("lesion",), told, than)["lesion"][name]
        text += f"   less the first: {less['value']:+.3f} {_interval(less)}"
    print(text, flush=True)


def _interval(found: dict[str, Any]) -> str:
    return "no interval" if found["interval"] is None else "({:+.3f} to {:+.3f})".format(*found["interval"])


def pretraining(bench: Bench, arguments: argparse.Namespace) -> None:
    labeled = arguments.labeled
    for seed in range(arguments.seeds):
        start = bench.head(f"pretrained{seed}", "downstream/pretrain", bench.sites(SEGMENTATION), seed=seed)
        state = start.selected()
        assert state.best is not None
        print(f"pretrained, seed {seed}: validation score {state.best.mean:.2f} dB, round {state.round}", flush=True)
        for kind in RECIPES:
            few = bench.sites(kind, people=labeled)
            plain = bench.head(f"{kind}{seed}_{labeled}", kind, few, seed=seed)
            begun = bench.head(f"{kind}{seed}_{labeled}_pre", kind, few, start=f"pretrained{seed}", seed=seed)
            for names, where in PLACES.items():
                first = bench.told(plain, kind, names)
                say(f"{kind}, {labeled} a site, seed {seed}, {where}: plain", kind, first)
                say(
                    f"{kind}, {labeled} a site, seed {seed}, {where}: pretrained",
                    kind,
                    bench.told(begun, kind, names),
                    first,
                )


def arms(bench: Bench, arguments: argparse.Namespace) -> None:
    kind = CLASSIFICATION
    sites = bench.sites(kind)
    bench.head("pretrained0", "downstream/pretrain", bench.sites(SEGMENTATION))
    plain = bench.head("fedavg", kind, sites, "evaluation.arms=['local', 'centralized']")
    heads: dict[str, tuple[RunFolder, str]] = {"fedavg": (plain, "")}
    heads |= {arm: (plain, arm) for arm in ("local", "centralized")}
    heads |= {name: (bench.head(name, kind, sites, method=f"_{name}"), "") for name in ("fedprox", "scaffold", "ditto")}
    for method, title in (("", "fedavg from the pretrained encoder"), ("_lora", "lora on the pretrained encoder")):
        run = bench.head(f"from_pretrained{method}", kind, sites, method=method, start="pretrained0")
        size = sum(tensor.numel() for tensor in run.selected().shared.values())
        heads[f"{title}, {size} numbers"] = run, ""
    for names, where in PLACES.items():
        first = bench.told(plain, kind, names)
        for title, (run, arm) in heads.items():
            say(f"{where}: {title}", kind, bench.told(run, kind, names, arm), first)


def updates(bench: Bench, arguments: argparse.Namespace) -> None:
    kind = SEGMENTATION
    old = bench.head("old", kind, bench.sites(kind, OLD))
    new = bench.head("updated", kind, bench.sites(kind, NEW), start="old")
    short = ("federation.rounds=4", "training.learning_rate=1e-3")  # those of downstream/update
    gently = bench.head("updated_gently", kind, bench.sites(kind, NEW), *short, start="old")
    both = bench.head("updated_at_all", kind, bench.sites(kind), start="old")
    at_once = bench.head("at_once", kind, bench.sites(kind))
    for names, where in ((OLD, "old sites"), (NEW, "new sites")):
        before = bench.told(old, kind, names)
        say(f"{where}: before", kind, before)
        runs = {"new sites": new, "new sites, gently": gently, "all four": both, "all four from the start": at_once}
        for title, run in runs.items():
            say(f"{where}: after {title}", kind, bench.told(run, kind, names), before)


PARTS = {"updates": updates, "arms": arms, "pretraining": pretraining}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="repeat for more (default: all)")
    parser.add_argument("--rounds", type=int, default=8, help="of 24 steps (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of pretraining (default: %(default)s)")
    parser.add_argument("--labeled", type=int, default=1, help="labeled people of a site (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_samples()
    bench = Bench(arguments.out, arguments.rounds)
    for part in arguments.only or PARTS:
        PARTS[part](bench, arguments)


if __name__ == "__main__":
    main()
