"""The fixed prompts by which the demo's quality is measured: python -m tuner.demo.prompts

Every other one names a combination held out of training.
"""

from __future__ import annotations

import json

import numpy as np

from tuner.demo import PROMPTS_FILE
from tuner.demo.captions import sample_pair

COUNT = 24


def main() -> None:
    """Write prompts.json: COUNT different prompts and a seed for each."""
    rng = np.random.default_rng(2026)
    prompts: list[str] = []
    while len(prompts) < COUNT:
        text = sample_pair(rng, unseen=len(prompts) % 2 == 0)[1].text()
        if text not in prompts:
            prompts.append(text)
    content = {"prompts": prompts, "seeds": list(range(1000, 1000 + COUNT))}
    PROMPTS_FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
