"""A few of all configurations, which have of everything that shapes a kernel's code."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from cute_gemm.plan.config import KernelConfig

Feature = tuple[Hashable, ...]


def traits(config: KernelConfig) -> dict[str, Hashable]:
    """What shapes the code of a kernel, each by itself."""
    return {
        "height": config.block_m,
        "fragments": config.fragments,
        "shares": (config.cluster_m > 1, config.cluster_n > 1),
        "splits": config.splits > 1,
        "columns of a scale": config.splits == 1 and (config.scale_ctas, config.narrowing),
        "partial accumulators": config.partial_accumulators,
        "straddles": config.straddles,
        "scales by TMA": config.tma_scales,
        "scales ahead": config.prefetch_scales,
        "draws": config.dynamic_persistence,
        "promoting maps": config.l2_promotion,
        "type": (config.out_dtype, config.narrowing),
        "adds": (config.accumulates, config.loads_out),
    }


def outlines(config: KernelConfig) -> set[Feature]:
    """What shapes the code of a kernel, whatever it is together with."""
    cluster = config.cluster_m, config.cluster_n, config.splits
    return {("layout", config.layout.name), ("cluster", *cluster), *traits(config).items()}


def features(config: KernelConfig) -> set[Feature]:
    """What shapes the code of a kernel, together with the layout.

    And what main loops and stores, which do not ask for the layout, are made of.
    """
    every: set[Feature] = {(config.layout.name, *trait) for trait in traits(config).items()}
    every.add(("cluster", config.cluster_m, config.cluster_n, config.splits))
    every.add(("loop", config.fragments, config.partial_accumulators, config.straddles))
    every.add(("whole groups of stages", config.partial_accumulators, config.stages % 4 == 0))
    every.add(("staged scales", config.tma_scales, config.fragments, config.straddles))
    # Partial sums go another way.
    every.add(
        (
            "store",
            config.out_dtype,
            config.narrowing,
            config.math_warpgroups,
            config.splits == 1 and config.epi_n,
        )
    )
    return every


Features = Callable[[KernelConfig], set[Feature]]


def kinds(configs: Sequence[KernelConfig], of: Features = features) -> tuple[KernelConfig, ...]:
    """Some of ``configs`` that have between them all features of all: as few as a greedy cover finds.

    The same for the same configurations, in their order.
    """
    left = set().union(*map(of, configs))
    chosen: set[KernelConfig] = set()
    while left:
        best = max(configs, key=lambda config: len(of(config) & left))
        chosen.add(best)
        left -= of(best)
    return tuple(config for config in configs if config in chosen)


def few(configs: Sequence[KernelConfig]) -> tuple[KernelConfig, ...]:
    """Fewer than :func:`kinds`, and with less: not all in every layout."""
    return kinds(configs, outlines)


def missing(
    some: Iterable[KernelConfig], configs: Iterable[KernelConfig], of: Features = features
) -> set[Feature]:
    """What ``configs`` have and ``some`` of them lack."""
    return set().union(*map(of, configs)) - set().union(*map(of, some))
