"""What a site does with its own data: the adapter between a federation's site and the reconstruction toolkit."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from recon import (
    DATA_CONSISTENCY,
    REGULARIZERS,
    KSpaceSlices,
    Regularizer,
    SinogramSlices,
    UnrolledNetwork,
    cosine_learning_rate,
    evaluate,
    train_locally,
)

from .algorithm import derive_seed
from .config import NetworkTable, Recipe
from .manifest import SiteManifest
from .manifest_tables import Split
from .messages import State
from .site import LocalResult, SiteSpec


def consistency_at(manifest: SiteManifest, table: NetworkTable) -> str:
    """Name of the data consistency at a site: its own, or the recipe's for its modality."""
    return manifest.consistency or table.consistency_of(manifest.modality)


def build_network(table: NetworkTable, consistency: str | None = None) -> UnrolledNetwork:
    """The network of a recipe, initialized from torch's global generator.

    All sites share the regularizer; ``consistency`` is that of a site where it is not the recipe's.
    """

    def regularizer() -> Regularizer:
        make = REGULARIZERS[table.regularizer]
        return make(table.channels, table.depth)

    return UnrolledNetwork(
        table.cascades,
        DATA_CONSISTENCY[consistency or table.consistency],
        regularizer,
        share_regularizer=table.share_cascades,
        ends_in=table.ends_in,
        combine=table.combine,
        site_strength=table.site_strength,
    )


@dataclass(frozen=True)
class ReconstructionTask:
    """Training and validation on the slices of one manifest, by one recipe.

    Parameters
    ----------
    cache
        Folder of the site's estimated coil maps.
    """

    manifest: SiteManifest
    recipe: Recipe
    cache: Path

    def network(self) -> nn.Module:
        table = self.recipe.network
        return build_network(table, consistency_at(self.manifest, table))

    def train(
        self, network: nn.Module, *, steps: int, seed: int, round: int, optimizer_state: State | None
    ) -> LocalResult:
        training = self.recipe.training
        dataset = self.dataset("train")
        progress = round / self.recipe.federation.rounds
        constant = training.schedule == "constant"
        result = train_locally(
            network,
            dataset,
            steps=steps,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate
            if constant
            else cosine_learning_rate(training.learning_rate, progress),
            loss=training.loss,
            seed=seed,
            optimizer_state=optimizer_state,
        )
        return LocalResult(result.losses, result.optimizer_state, len(dataset))

    def fine_tune(self, network: nn.Module, *, steps: int, learning_rate: float) -> None:
        """Train all parameters in place with a fresh optimizer."""
        training, seed = self.recipe.training, self.recipe.federation.seed
        train_locally(
            network,
            self.dataset("train"),
            steps=steps,
            batch_size=training.batch_size,
            learning_rate=learning_rate,
            loss=training.loss,
            seed=derive_seed(seed, "personal", self.manifest.name),
        )

    def validate(self, network: nn.Module) -> float | None:
        if not self.manifest.data.validation:
            return None
        return evaluate(network, self.dataset("validation")).selection_score()

    def dataset(self, split: Split) -> KSpaceSlices | SinogramSlices:
        """Slices of a split; those for training are augmented as the recipe says."""
        augment = self.recipe.training.augmentation() if split == "train" else None
        return self.manifest.dataset(split, self.cache, augment, self.recipe.federation.seed)


def site_spec(manifest: SiteManifest, recipe: Recipe, folder: Path, cache: Path) -> SiteSpec:
    """All that makes this site; ``folder`` is that of its kept state."""
    return SiteSpec(
        name=manifest.name,
        task=partial(ReconstructionTask, manifest, recipe, cache),
        folder=folder,
        seed=recipe.federation.seed,
        steps=recipe.training.steps_per_round,
        keep=recipe.scope.keep,
        share=recipe.scope.share,
        optimizer_state=recipe.training.optimizer_state,
    )
