"""Deal subjects to training, validation and test."""

from collections import Counter
from collections.abc import Mapping, Sequence

from recon import seed_from

from .manifest_schema import SPLITS, Split


def assign_splits(
    groups: Mapping[str, Sequence[str]],
    fractions: tuple[float, float, float],
    seed: int,
    test_only: Sequence[str] = (),
) -> dict[str, dict[str, Split]]:
    """Deal the subjects of every group to the splits, a subject of several groups to the same split in all of them.

    Otherwise a subject that was scanned at two sites could be trained on at one and tested on at the other.

    Parameters
    ----------
    groups
        Subjects by group, repetitions allowed.
    fractions
        For training, validation and test, see :func:`split_counts`.
    seed
        Seed of the order.
    test_only
        Groups whose subjects all go to test.
    """
    assigned: dict[str, Split] = {name: "test" for group in test_only for name in groups[group]}
    for group in sorted(groups):
        names = set(groups[group])
        wanted = dict(zip(SPLITS, split_counts(len(names), fractions), strict=True))
        have = Counter(assigned[name] for name in names if name in assigned)
        for name in sorted(names - assigned.keys(), key=lambda name: seed_from(f"{seed} {name}", bits=256)):
            # SPLITS is in order of importance, and max takes the first of equals.
            assigned[name] = max(SPLITS, key=lambda split: wanted[split] - have[split])
            have[assigned[name]] += 1
    return {group: {name: assigned[name] for name in names} for group, names in groups.items()}


def deal_files(
    groups: Mapping[str, Sequence[str]],
    persons: Mapping[str, str],
    fractions: tuple[float, float, float],
    seed: int,
    test_only: Sequence[str] = (),
) -> dict[str, dict[str, Split]]:
    """Split of every file of every group: all files of a person are in one, in all groups.

    Parameters
    ----------
    groups
        Files by group.
    persons
        Person of every file.
    fractions, seed, test_only
        As for :func:`assign_splits`.
    """
    people = {group: [persons[file] for file in files] for group, files in groups.items()}
    splits = assign_splits(people, fractions, seed, test_only)
    return {group: {file: splits[group][persons[file]] for file in files} for group, files in groups.items()}


def split_counts(n: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    """Numbers of subjects, ``n`` in total, for training, validation and test.

    Every split of positive fraction gets at least one if there are enough, training first.
    """
    _, validation, test = fractions
    least = [int(fraction > 0) for fraction in fractions]
    if n <= sum(least):
        counts = [0, 0, 0]
        for index in [i for i in range(3) if least[i]][:n]:
            counts[index] = 1
        return counts[0], counts[1], counts[2]
    n_validation = max(least[1], round(n * validation))
    n_test = max(least[2], round(n * test))
    while n - n_validation - n_test < least[0]:
        if n_validation >= n_test:
            n_validation -= 1
        else:
            n_test -= 1
    return n - n_validation - n_test, n_validation, n_test
