"""Published numbers, for the tables; every one as its authors or two independent later tables give it."""

from typing import Final

_KITTI: Final = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1")


def _row(*values: float | None) -> dict[str, float]:
    return {key: value for key, value in zip(_KITTI, values, strict=True) if value is not None}


ROWS: Final[dict[str, dict[str, dict[str, float]]]] = {
    # KITTI Eigen, raw LiDAR, Garg crop, 80 m, median scaling. Sources: the papers; tables of CoMoDA and ManyDepth.
    "kitti-eigen": {
        "GLNet, 416x128": _row(0.135, 1.070, 5.230, 0.210, 0.841),
        "GLNet, refined, 416x128": _row(0.099, 0.796, 4.743, 0.186, 0.884),
        "struct2depth, 416x128": _row(0.141, 1.026, 5.291, 0.215, 0.816),
        "struct2depth, refined, 416x128": _row(0.109, 0.825, 4.750, 0.187, 0.874),
        "learnK (Gordon et al.), 416x128": _row(0.128, 0.959, 5.230, 0.212, 0.845),
        "Monodepth2, 640x192": _row(0.115, 0.903, 4.863, 0.193, 0.877),
        "ManyDepth + TTR, 640x192": _row(0.090, 0.713, 4.261, 0.170, 0.914),
        "DualRefine, two frames, 640x192": _row(0.087, 0.698, 4.234, 0.170, 0.914),
    },
    # Five-frame ATE, m, on sequences 09 / 10 (training on 00-08).
    "kitti-odometry": {
        "GLNet, sequence 09": {"ate5": 0.011, "ate5_std": 0.006},
        "GLNet, sequence 10": {"ate5": 0.011, "ate5_std": 0.009},
    },
    "kitti-flow": {"GLNet": {"epe": 8.35, "epe_noc": 4.86}},
}
