"""A cluster of two CTAs that share B by multicast, with the numbers of the configuration that docs follow."""

from __future__ import annotations

from svg import BLUE, GREEN, GREY, ORANGE, Drawing

NAME = "256x128_c2x1_s4_r8_dyn_l2p256_bf16"


def draw() -> str:
    """Who loads what for whom, and who tells whom that a stage is empty."""
    from cute_gemm.plan import candidates

    (config,) = [each for each in candidates.every_config() if each.name == NAME]
    a_bytes, b_bytes = config.block_m * config.block_k, config.block_n * config.block_k
    assert config.stage_bytes == a_bytes + b_bytes
    arrivals = 4 * config.math_warpgroups * config.cluster_m
    picture = Drawing(700, 400, "A cluster of two CTAs that share B by multicast")
    picture.box((20, 30), (660, 60), GREY, 0.08)
    picture.text((350, 22), "L2", 13)
    boxes = (
        (40, "A: rows of CTA 0", BLUE),
        (270, "B: columns of both", ORANGE),
        (500, "A: rows of CTA 1", BLUE),
    )
    for x, words, colour in boxes:
        picture.box((x, 42), (160, 36), colour, 0.2)
        picture.text((x + 80, 65), words, 12)
    for cta, x in enumerate((20, 360)):
        picture.box((x, 170), (320, 190), edge_width=1.5)
        picture.text((x + 160, 349), f"CTA {cta}: {config.block_m} x {config.block_n} of D", 13)
        picture.box((x + 16, 186), (136, 56), BLUE, 0.2)
        picture.text((x + 84, 210), "A", 13)
        picture.text((x + 84, 228), f"{a_bytes} bytes")
        picture.box((x + 168, 186), (136, 56), ORANGE, 0.2)
        picture.text((x + 236, 210), "B", 13)
        picture.text((x + 236, 228), f"{b_bytes} bytes")
        picture.box((x + 16, 258), (288, 28), GREEN, 0.15)
        picture.text((x + 160, 277), f"full: 1 arrival, {config.stage_bytes} bytes", 12)
        picture.box((x + 16, 298), (288, 28), GREEN, 0.15)
        words = f"empty: {arrivals} arrivals, {arrivals // config.cluster_m} of each CTA"
        picture.text((x + 160, 317), words, 12)
    picture.line([(104, 78), (104, 184)], BLUE, 2, arrow=True)
    picture.line([(580, 78), (580, 130), (444, 130), (444, 184)], BLUE, 2, arrow=True)
    picture.line([(350, 78), (350, 110), (256, 110), (256, 184)], ORANGE, 2, arrow=True)
    picture.line([(350, 110), (596, 110), (596, 184)], ORANGE, 2, arrow=True)
    picture.text((362, 104), "one request of CTA 0, written to both", 11, "start", ORANGE)
    picture.line([(324, 312), (374, 312)], GREEN, 2, arrow=True)
    picture.line([(376, 312), (326, 312)], GREEN, 2, arrow=True)
    words = "B's stage is overwritten in both CTAs at once: so each asks both whether it has been read."
    picture.text((350, 384), words, 12)
    return str(picture)
